"""With fused optimizers StopOnNonFinite reads a step's numbers one batch later; nothing is lost."""

import os
import signal
import weakref

import pytest
import pytorch_lightning as pl
import torch
from breaking import Breaks, NanWhileTold, assert_as_just_before, nan_image, nan_layer
from lightning_helpers import CHATTER, Probe, Stranger, make_trainer, vectors, weights24
from pytorch_lightning.callbacks import ModelCheckpoint

from sparsetrain import SRSTE
from sparsetrain.errors import NonFiniteError
from sparsetrain.lightning import (
    EMA,
    SaveOnInterrupt,
    SparsifyModel,
    StopOnNonFinite,
    read_checkpoint,
)

pytestmark = CHATTER


def train(folder, module, *callbacks, validate=False, **settings):
    """Train eight batches under StopOnNonFinite, with no checkpoint that is not asked for."""
    trainer = make_trainer(folder, StopOnNonFinite(), *callbacks, **settings)
    trainer.fit(module, vectors(32), vectors() if validate else None)
    return trainer


def moments(trainer):
    """The state of each parameter in the optimizer."""
    return trainer.optimizers[0].state_dict()["state"]


class Keeps(pl.Callback):
    """The trainer, also after an error."""

    def setup(self, trainer, pl_module, stage):
        self.trainer = trainer


def test_it_raises_a_batch_later_with_weights_and_optimizer_as_they_were(tmp_path):
    module, keeps = Breaks(nan_image, fused=True), Keeps()
    with pytest.raises(NonFiniteError, match="step 2: loss is nan; the images already hold"):
        train(tmp_path, module, keeps)
    assert len(module.losses) == 4
    assert torch.isfinite(module.losses[3])  # a good step, whose update is left out as well
    assert_as_just_before(module)
    before = train(tmp_path, Breaks(nan_image, fused=True), max_steps=2)
    for key, state in moments(before).items():
        assert state["step"] == 2
        for name, value in state.items():
            assert torch.equal(moments(keeps.trainer)[key][name], value), name


def test_the_last_step_of_a_run_is_read_as_well(tmp_path):
    with pytest.raises(NonFiniteError, match="step 2: loss is nan"):
        train(tmp_path, Breaks(nan_image, fused=True, step=2), max_steps=3)


def test_a_loss_that_is_not_finite_stops_its_update_though_the_gradient_is_finite(tmp_path):
    class Adds(Breaks):
        def training_step(self, batch):
            loss = super().training_step(batch)
            return loss + torch.inf if self.trainer.global_step == 2 else loss

    module = Adds(lambda module, batch: batch, fused=True)
    with pytest.raises(NonFiniteError, match="step 2: loss is inf; in a second forward every"):
        train(tmp_path, module)
    assert_as_just_before(module)


def test_of_several_the_first_is_told(tmp_path):
    def spoil(module, batch):
        module.body[4].register_full_backward_hook(lambda m, x, out: (x[0] * torch.nan,))
        module.step = 3
        module.breaks = nan_image
        return batch

    module = Breaks(spoil, fused=True)
    with pytest.raises(NonFiniteError, match=r"step 2: the gradient of body\.2\.bias is not"):
        train(tmp_path, module)


def test_what_the_last_batch_gave_is_read_before_validation_begins(tmp_path):
    class Watches(pl.Callback):
        began = False

        def on_validation_start(self, *_):
            self.began = True

    watches, module = Watches(), Breaks(nan_layer, fused=True, step=7)
    with pytest.raises(
        NonFiniteError, match=r"step 7: loss is nan; first in the output of body\.3"
    ):
        train(tmp_path, module, watches, validate=True)
    assert not watches.began
    assert_as_just_before(module)


def test_before_a_validation_within_the_epoch_the_layer_is_sought_in_training_mode(tmp_path):
    class NanInTraining(NanWhileTold):
        def forward(self, x):
            return super().forward(x) if self.training else x

    module = Breaks(nan_layer, fused=True)
    module.body[3] = NanInTraining()
    with pytest.raises(NonFiniteError, match=r"step 2: .* first in the output of body\.3"):
        train(tmp_path, module, validate=True, val_check_interval=1)
    assert len(module.losses) == 3


def test_a_bad_micro_batch_stops_the_update_of_its_step(tmp_path):
    module = Breaks(nan_image, fused=True, step=1)
    with pytest.raises(NonFiniteError, match="step 1: loss is nan; the images"):
        train(tmp_path, module, accumulate_grad_batches=2)
    assert_as_just_before(module)


def test_an_interrupted_step_that_was_bad_is_not_saved(tmp_path):
    def interrupted(module, batch):
        os.kill(os.getpid(), signal.SIGINT)
        return nan_image(module, batch)

    module = Breaks(interrupted, fused=True)
    with pytest.raises(NonFiniteError, match="step 2: loss is nan"):
        train(tmp_path, module, SaveOnInterrupt(str(tmp_path)))
    assert len(module.losses) == 3
    assert not (tmp_path / "interrupted.ckpt").exists()


def saved(folder, *, weights_only=False):
    """A run with everything that goes along with the weights, saved every second step."""
    return [
        SparsifyModel(weights24(SRSTE(decay=1e-2))),
        EMA(decay=0.5),
        ModelCheckpoint(
            folder,
            filename="{step}",
            every_n_train_steps=2,
            save_top_k=-1,
            save_weights_only=weights_only,
        ),
    ]


def test_checkpoints_know_nothing_of_the_bad_step(tmp_path):
    module = Breaks(nan_image, fused=True, step=5)
    with pytest.raises(NonFiniteError, match="step 5"):
        train(tmp_path, module, *saved(tmp_path / "broken"))
    assert_as_just_before(module)
    train(tmp_path, Breaks(nan_image, fused=True, step=99), *saved(tmp_path / "whole"))
    names = sorted(path.name for path in (tmp_path / "broken").iterdir())
    assert names == ["step=2.ckpt", "step=4.ckpt"]
    broken, whole = (read_checkpoint(tmp_path / run / names[1]) for run in ("broken", "whole"))
    for key in ("state_dict", "current_model_state", "averaging_state"):
        for name, value in whole[key].items():
            assert torch.equal(broken[key][name], value), name
    assert broken["callbacks"]["EMA"] == whole["callbacks"]["EMA"]


def test_weights_that_are_saved_without_asking_are_those_before(tmp_path):
    module = Breaks(nan_image, fused=True, step=5)
    with pytest.raises(NonFiniteError, match="step 5"):
        train(tmp_path, module, *saved(tmp_path / "broken", weights_only=True))
    weights = read_checkpoint(tmp_path / "broken" / "step=6.ckpt")["state_dict"]
    assert all(torch.equal(weights[name], value) for name, value in module.weights.items())


def found_inf(trainer, module):
    return vars(trainer.optimizers[0]).get("found_inf")


@pytest.mark.parametrize("step", [2, 99])
def test_no_mark_stays_on_the_optimizer(tmp_path, step):
    module, keeps, probe = Breaks(nan_image, fused=True, step=step), Keeps(), Probe(found_inf)
    if step == 2:
        with pytest.raises(NonFiniteError):
            train(tmp_path, module, keeps, probe)
    else:
        train(tmp_path, module, keeps, probe)
    assert all(found.dtype == torch.float32 for found in probe.seen)
    assert found_inf(keeps.trainer, module) is None


def test_an_optimizer_whose_checkpoint_was_not_fused_is_read_at_once(tmp_path):
    class Resumed(Breaks):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            state = torch.optim.AdamW(self.parameters(), lr=self.lr).state_dict()
            optimizer.load_state_dict(state)
            return optimizer

    module, probe = Resumed(nan_image, fused=True), Probe(found_inf)
    with pytest.raises(NonFiniteError, match="step 2: loss is nan"):
        train(tmp_path, module, probe)
    assert probe.seen == [None, None]
    assert len(module.losses) == 3


def test_the_images_of_two_batches_are_kept_at_most(tmp_path):
    images = []

    class Counts(Stranger):
        most = 0

        def training_step(self, batch):
            images.append(weakref.ref(batch[0]))
            self.most = max(self.most, sum(ref() is not None for ref in images))
            return super().training_step(batch)

        configure_optimizers = Breaks.configure_optimizers
        fused = True

    module = Counts()
    train(tmp_path, module)
    assert len(images) == 8
    assert module.most == 2


def test_a_finite_run_ends_in_the_same_bits_as_without(tmp_path):
    watched, alone = (Breaks(nan_image, fused=True, step=99) for _ in range(2))
    train(tmp_path, watched, gradient_clip_val=0.5)
    make_trainer(tmp_path, gradient_clip_val=0.5).fit(alone, vectors(32))
    for name, value in alone.state_dict().items():
        assert torch.equal(watched.state_dict()[name], value), name
