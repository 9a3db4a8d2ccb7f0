"""SparsifyModel packs weights once per optimizer step and evaluation, and never uses old ones."""

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from lightning_helpers import CHATTER, Probe, Stranger, make_body, make_trainer, vectors, weights24
from op_calls import OpCalls
from pytorch_lightning.plugins import MixedPrecision
from torch import Tensor

from sparsetrain import STE, Schedule, SparsifyModel, Sparsity
from sparsetrain.lightning import EMA, StepSeed
from sparsetrain.ops import mask24

pytestmark = CHATTER
PRECISIONS = ["32-true", "bf16-mixed", "bf16-true"]


def holds(module: Any) -> list[bool]:
    return [module.body[i].held is not None for i in (0, 2)]


class Watched(Stranger):
    """Wherever it is called, its first layer must multiply by its weight as it is then."""

    def __init__(self, lr: float = 1.0) -> None:
        super().__init__(lr=lr)
        self.sparse_calls = 0
        self.validated: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        layer = self.body[0]
        with torch.no_grad():
            weight = layer.weight
            if layer.sparse:
                weight = mask24(weight, layer.current_mask())
                self.sparse_calls += 1
            torch.testing.assert_close(layer(x), F.linear(x, weight, layer.bias))
        return super().forward(x)

    def validation_step(self, batch):
        self.validated.append(self.body[0].weight.detach().clone())
        super().validation_step(batch)

    def test_step(self, batch):
        self(batch[0])

    def predict_step(self, batch):
        return self(batch[0])


class Packs:
    """How often all weights were packed, up to each training batch and each validation batch."""

    def __init__(self) -> None:
        self.calls = OpCalls()
        self.probe = Probe(lambda trainer, module: self.count())
        self.in_validation: list[int] = []

    def count(self) -> int:
        packs, rest = divmod(self.calls.count("mask24"), 2)  # of two layers
        assert rest == 0
        return packs

    def fit(self, module: Stranger, folder, *callbacks, length: int = 24, **settings) -> list[int]:
        def validation_step(batch):
            self.in_validation.append(self.count())

        validates = "val_check_interval" in settings
        if validates:
            module.validation_step = validation_step
        trainer = make_trainer(folder, *callbacks, self.probe, **settings)
        with self.calls:
            trainer.fit(module, vectors(length), vectors() if validates else None)
        return self.probe.seen


@pytest.mark.parametrize("precision", PRECISIONS)
def test_micro_batches_of_a_step_pack_once(tmp_path, precision):
    seen = Packs().fit(
        Stranger(),
        tmp_path,
        SparsifyModel(weights24(STE())),
        length=28,
        accumulate_grad_batches=3,
        max_epochs=2,
        precision=precision,
    )
    epoch = [1, 1, 1, 2, 2, 2, 3]  # an epoch ends with a step
    assert seen == epoch + [3 + count for count in epoch]


def test_every_step_packs_between_updates_of_the_masks_too(tmp_path):
    seen = Packs().fit(Stranger(), tmp_path, SparsifyModel(weights24(STE(), mask_every=4)))
    assert seen == [1, 2, 3, 4, 5, 6]


def test_a_validation_packs_once_and_the_step_it_interrupts_once_more(tmp_path):
    packs = Packs()
    seen = packs.fit(
        Stranger(),
        tmp_path,
        SparsifyModel(weights24(STE())),
        accumulate_grad_batches=3,
        val_check_interval=2,
    )
    assert seen == [1, 1, 3, 4, 6, 6]
    assert packs.in_validation == [2] * 4 + [5] * 4 + [7] * 4


def test_dense_phases_pack_nothing(tmp_path):
    schedule = {"dense_warmup": 0.34, "dense_tail": 0.34}
    seen = Packs().fit(Stranger(), tmp_path, SparsifyModel(weights24(STE(), **schedule)))
    assert seen == [0, 0, 1, 2, 2, 2]


def test_every_run_of_a_model_packs_for_itself(tmp_path):
    class Tested(Stranger):
        def test_step(self, batch):
            self(batch[0])

        def predict_step(self, batch):
            return self(batch[0])

    module, packs, counts = Tested(), Packs(), []
    sparsify = SparsifyModel(weights24(STE()))
    trainer = make_trainer(tmp_path, sparsify, accumulate_grad_batches=3)
    with packs.calls:
        for _ in range(2):
            trainer.validate(module, vectors(), verbose=False)
            counts.append(packs.count())
            trainer.test(module, vectors(), verbose=False)
            counts.append(packs.count())
            trainer.predict(module, vectors())
            counts.append(packs.count())
        trainer.fit(module, vectors(24))
    assert counts == [1, 2, 3, 4, 5, 6]
    assert packs.count() == 6 + 2


def test_a_sparsity_of_nothing_packs_nothing(tmp_path):
    packs = Packs()
    packs.fit(Stranger(), tmp_path, SparsifyModel(Sparsity(weight=None)), val_check_interval=2)
    assert packs.calls.names == []


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_is_held_is_in_the_dtype_of_the_products(tmp_path, precision):
    dtypes = Probe(lambda trainer, module: module.body[0].held[0].dtype)
    trainer = make_trainer(
        tmp_path, SparsifyModel(weights24(STE())), dtypes, max_steps=2, precision=precision
    )
    trainer.fit(Stranger(), vectors())
    expected = torch.float32 if precision == "32-true" else torch.bfloat16
    assert dtypes.seen == [expected] * 2


# Whose weights.


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_every_loop_multiplies_by_the_weights_of_its_time(tmp_path, precision):
    module = Watched()
    trainer = make_trainer(
        tmp_path,
        SparsifyModel(weights24(STE(), mask_every=2)),
        max_epochs=2,
        accumulate_grad_batches=2,
        val_check_interval=3,
        precision=precision,
    )
    trainer.fit(module, vectors(), vectors(8))
    fitted = module.body[0].weight.detach().clone()
    trainer.validate(module, vectors(8), verbose=False)
    trainer.test(module, vectors(8), verbose=False)
    module.body[0].weight.data.neg_()
    trainer.test(module, vectors(8), verbose=False)
    outputs = trainer.predict(module, vectors(8))
    assert len(outputs) == 2
    # 8 batches, two validations of two batches each, then four runs of two.
    assert module.sparse_calls == 8 + 4 + 8
    assert torch.equal(module.validated[-1], fitted)
    assert not torch.equal(module.validated[0], fitted)
    assert holds(module) == [False, False]


@pytest.mark.parametrize("average_first", [False, True])
def test_averaged_weights_validate_and_the_masters_train_on(tmp_path, average_first):
    module, average = Watched(), EMA(decay=0.5)
    masters = Probe(lambda trainer, module: module.body[0].weight.detach().clone())
    sparsify = SparsifyModel(weights24(STE(), mask_every=99))
    order = [average, sparsify] if average_first else [sparsify, average]
    trainer = make_trainer(
        tmp_path, *order, masters, accumulate_grad_batches=3, val_check_interval=2
    )
    trainer.fit(module, vectors(24), vectors(8))
    assert module.sparse_calls == 6 + 6
    first, *_, last = module.validated
    # The step is half done when the first validation comes, and the average begins with it.
    assert all(torch.equal(weight, masters.seen[0]) for weight in masters.seen[:3])
    assert not torch.equal(masters.seen[2], masters.seen[3])
    assert not any(torch.equal(last, weight) for weight in (*masters.seen, first))
    trainer.test(module, vectors(8), verbose=False)
    assert module.sparse_calls == 12 + 2


def test_a_dense_phase_is_trained_and_validated_with_whole_weights(tmp_path):
    module = Watched()
    sparsify = SparsifyModel(Sparsity(schedule=Schedule(dense_warmup=0.5)))
    make_trainer(tmp_path, sparsify, val_check_interval=1).fit(module, vectors(), vectors(4))
    assert len(module.validated) == 4
    assert module.sparse_calls == 2 + 2


# Steps that do not end as they should, and steps of another kind.


class Breaks(Watched):
    """Fails in the middle of accumulation in its first run, with packed weights."""

    error: BaseException | None = ValueError("broken batch")

    def training_step(self, batch):
        loss = super().training_step(batch)
        if self.error is not None and len(self.losses) == 2:
            assert holds(self) == [True, True]
            error, self.error = self.error, None
            raise error
        return loss


@pytest.mark.parametrize("error", [ValueError("broken batch"), KeyboardInterrupt()])
def test_an_interrupted_step_leaves_nothing_held_and_a_model_that_trains(tmp_path, error):
    class Looks(pl.Callback):
        def on_exception(self, trainer, pl_module, exception):
            self.holds = holds(pl_module)

    module, sparsify, look = Breaks(), SparsifyModel(weights24(STE())), Looks()
    module.error = error
    expected = ValueError if isinstance(error, ValueError) else SystemExit
    with pytest.raises(expected):
        make_trainer(tmp_path, sparsify, look, accumulate_grad_batches=3).fit(module, vectors())
    assert look.holds == holds(module) == [False, False]
    module.body[0].weight.data.neg_()
    module(torch.ones(2, 8))
    calls = module.sparse_calls
    make_trainer(tmp_path, sparsify, accumulate_grad_batches=3).fit(module, vectors())
    assert module.sparse_calls == calls + 4


def test_a_run_that_stops_between_the_batches_of_a_step_leaves_nothing_held(tmp_path):
    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            trainer.should_stop = True

        def on_train_end(self, trainer, pl_module):
            held.append(holds(pl_module))

    held: list[list[bool]] = []
    module, sparsify = Watched(), SparsifyModel(weights24(STE()))
    settings: dict[str, Any] = {"max_epochs": -1, "accumulate_grad_batches": 3}
    average = EMA(decay=0.5)
    trainer = make_trainer(tmp_path, sparsify, average, Stop(), **settings)
    trainer.fit(module, vectors())
    assert trainer.global_step == 0
    # With the weights still on their device: leaving it would let go as well.
    assert held == [[False, False]]
    look = Look()
    make_trainer(tmp_path, sparsify, look, max_steps=1).fit(module, vectors())
    assert look.held == [[True, True]]


class Look(pl.Callback):
    """What is held when a batch starts, after the callbacks before it."""

    def __init__(self) -> None:
        self.held: list[list[bool]] = []

    def on_train_batch_start(self, trainer, pl_module, *_):
        self.held.append(holds(pl_module))


class SkipsTheSecondStep(MixedPrecision):
    """As a GradScaler does whose gradients overflowed: the loop counts a step that was none."""

    def __init__(self) -> None:
        super().__init__("bf16-mixed", "cpu")
        self.steps = 0

    def optimizer_step(self, optimizer, model, closure, **kwargs):
        self.steps += 1
        if self.steps == 2:
            return closure()
        return super().optimizer_step(optimizer, model, closure, **kwargs)


def test_a_skipped_optimizer_step_does_not_leave_the_next_one_unpacked(tmp_path):
    sparsify, look = SparsifyModel(weights24(STE(), mask_every=1)), Look()
    trainer = make_trainer(tmp_path, sparsify, look, plugins=[SkipsTheSecondStep()])
    trainer.fit(Watched(), vectors())
    assert len(look.held) > 3
    assert look.held == [[True, True]] * len(look.held)


def test_a_training_step_that_steps_its_optimizer_twice_uses_the_new_weights(tmp_path):
    class Manual(Watched):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch):
            optimizer: Any = self.optimizers()
            for _ in range(2):
                optimizer.zero_grad()
                self.manual_backward(super().training_step(batch))
                optimizer.step()

    module = Manual()
    make_trainer(tmp_path, SparsifyModel(weights24(STE()))).fit(module, vectors())
    assert module.sparse_calls == 8
    losses = torch.stack(module.losses)
    assert (losses[1::2] < losses[::2]).all(), "the second is of the same batch, after a step"


def test_an_optimizer_that_evaluates_a_step_again_uses_the_new_weights(tmp_path):
    class Searches(Watched):
        def configure_optimizers(self):
            return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=3)

    module = Searches()
    make_trainer(tmp_path, SparsifyModel(weights24(STE(), mask_every=9))).fit(module, vectors())
    assert module.sparse_calls == len(module.losses) > 4


def test_training_is_that_of_a_model_that_packs_in_every_forward(tmp_path, monkeypatch):
    weights = []
    for packs in (True, False):
        if not packs:
            monkeypatch.setattr(SparsifyModel, "_pack", lambda *_: None)
        module = Stranger(make_body(), lr=1.0)
        trainer = make_trainer(
            tmp_path,
            SparsifyModel(weights24(STE(), mask_every=3, dense_warmup=0.2)),
            StepSeed(0),
            max_epochs=2,
            accumulate_grad_batches=2,
            val_check_interval=2,
            precision="bf16-mixed",
        )
        trainer.fit(module, vectors(24), vectors())
        weights.append(module.body[0].weight.detach())
    assert torch.equal(*weights)
    assert not torch.equal(weights[0], make_body()[0].weight)


class Places(pl.Callback):
    """Where the packed weights lie, in each batch."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *batch: Any) -> None:
        held = [pl_module.body[i].held for i in (0, 2)]
        forms = [form for packed in held for form in packed if form is not None]
        self.seen.append([form.data_ptr() for form in forms])


def test_every_step_packs_to_the_same_memory(tmp_path):
    places, taken = Places(), []
    sparsify = SparsifyModel(Sparsity(("body.*",), weight=STE(), schedule=Schedule(mask_every=2)))
    module = Stranger()
    module.register_forward_hook(lambda *_: taken.append(torch.empty(64)))  # what was freed
    trainer = make_trainer(tmp_path, sparsify, places)
    trainer.fit(module, vectors(), vectors())
    assert len(places.seen) > 2
    assert places.seen == [places.seen[0]] * len(places.seen)
