"""In a Lightning trainer every forward multiplies by the weights as they are then."""

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from lightning_helpers import CHATTER, Probe, Stranger, make_trainer, vectors, weights24
from op_calls import OpCalls
from pytorch_lightning.plugins import MixedPrecision
from torch import Tensor

from sparsetrain import STE, Schedule, SparsifyModel, Sparsity
from sparsetrain.lightning import EMA
from sparsetrain.ops import mask24

pytestmark = CHATTER


def attached(module: Any) -> list[bool]:
    return [module.body[i].phase.attached for i in (0, 2)]


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


def test_dense_phases_make_no_weight_sparse(tmp_path):
    calls = OpCalls()
    probe = Probe(lambda trainer, module: calls.count("mask24"))
    sparsify = SparsifyModel(weights24(STE(), dense_warmup=0.34, dense_tail=0.34))
    with calls:
        make_trainer(tmp_path, sparsify, probe).fit(Stranger(), vectors(24))
    assert probe.seen == [0, 0, 2, 4, 4, 4]  # of two layers


def test_a_sparsity_of_nothing_calls_no_op(tmp_path):
    trainer = make_trainer(tmp_path, SparsifyModel(Sparsity(weight=None)), val_check_interval=2)
    with OpCalls() as calls:
        trainer.fit(Stranger(), vectors(), vectors())
    assert calls.names == []


# Steps that do not end as they should, and steps of another kind.


class Breaks(Watched):
    """Fails in the middle of accumulation in its first run."""

    error: BaseException | None = ValueError("broken batch")

    def training_step(self, batch):
        loss = super().training_step(batch)
        if self.error is not None and len(self.losses) == 2:
            assert attached(self) == [True, True]
            error, self.error = self.error, None
            raise error
        return loss


@pytest.mark.parametrize("error", [ValueError("broken batch"), KeyboardInterrupt()])
def test_an_interrupted_run_leaves_its_optimizer_and_a_model_that_trains(tmp_path, error):
    module, sparsify = Breaks(), SparsifyModel(weights24(STE()))
    module.error = error
    expected = ValueError if isinstance(error, ValueError) else SystemExit
    trainer = make_trainer(tmp_path, sparsify, accumulate_grad_batches=3)
    with pytest.raises(expected):
        trainer.fit(module, vectors())
    assert attached(module) == [False, False]
    phase, calls = module.body[0].phase, module.sparse_calls
    trainer.optimizers[0].step()
    assert phase.step == 0
    make_trainer(tmp_path, sparsify, accumulate_grad_batches=3).fit(module, vectors())
    assert module.sparse_calls == calls + 4
    assert module.body[0].phase.step == 2


def test_a_run_that_stops_between_the_batches_of_a_step_leaves_its_optimizer(tmp_path):
    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            trainer.should_stop = True

    module, sparsify = Watched(), SparsifyModel(weights24(STE()))
    settings: dict[str, Any] = {"max_epochs": -1, "accumulate_grad_batches": 3}
    trainer = make_trainer(tmp_path, sparsify, EMA(decay=0.5), Stop(), **settings)
    trainer.fit(module, vectors())
    assert trainer.global_step == 0
    assert attached(module) == [False, False]
    make_trainer(tmp_path, sparsify, max_steps=1).fit(module, vectors())
    assert module.body[0].phase.step == 1


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


def test_an_optimizer_step_that_is_skipped_counts_for_nothing(tmp_path):
    sparsify, module = SparsifyModel(weights24(STE(), dense_tail=0.25)), Watched()
    steps = Probe(lambda trainer, module: (trainer.global_step, module.body[0].phase.step))
    trainer = make_trainer(tmp_path, sparsify, steps, plugins=[SkipsTheSecondStep()])
    trainer.fit(module, vectors())
    assert steps.seen == [(0, 0), (1, 1), (2, 1), (3, 2)]
    assert sparsify.phase == "dense_tail"


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
