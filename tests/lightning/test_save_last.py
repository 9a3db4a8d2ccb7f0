"""`last.ckpt` is where a run stands, whether or not it was ever better."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import pytorch_lightning as pl
import torch
from lightning_helpers import (
    CHATTER,
    AugmentedDigits,
    Stranger,
    make_classifier,
    make_trainer,
    vectors,
)
from pytorch_lightning.callbacks import ModelCheckpoint

from sparsetrain.lightning import SaveLast, StepSeed, read_checkpoint

pytestmark = CHATTER
STEPS = 6  # an epoch's


class Losses(pl.Callback):
    """Keeps them, and crashes at the start of a step."""

    def __init__(self, crash_at=None):
        self.crash_at = crash_at
        self.losses = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.crash_at:
            raise KeyError("crashed")

    def on_train_batch_end(self, trainer, pl_module, outputs, *_):
        self.losses.append(float(outputs["loss"]))


def run(folder, *callbacks, resume=None, crash_at=None, validates=True, **settings):
    """The losses of a run of 3 epochs with one learning rate."""
    module, keeps = make_classifier(), Losses(crash_at)
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.02)
    settings = {"max_epochs": 3, "limit_val_batches": 1.0 if validates else 0, **settings}
    trainer = make_trainer(
        folder, SaveLast(str(folder)), StepSeed(0), keeps, *callbacks, **settings
    )
    if crash_at is None:
        trainer.fit(module, datamodule=AugmentedDigits(), ckpt_path=resume)
    else:
        with pytest.raises(KeyError, match="crashed"):
            trainer.fit(module, datamodule=AugmentedDigits(), ckpt_path=resume)
    return keeps.losses


def step_of(folder):
    return read_checkpoint(folder / "last.ckpt")["global_step"]


def test_it_is_of_the_last_step_where_the_best_is_of_an_earlier_one(tmp_path):
    first = ModelCheckpoint(tmp_path, filename="best", monitor="step", mode="min")
    run(tmp_path, first)
    assert read_checkpoint(tmp_path / "best.ckpt")["global_step"] == STEPS
    assert step_of(tmp_path) == 3 * STEPS


@pytest.fixture(scope="module")
def losses(tmp_path_factory):
    """Those of a run that nothing interrupted; validation changes none."""
    return run(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("validates", [True, False])
def test_a_run_that_crashed_goes_on_from_the_epoch_before(tmp_path, losses, validates):
    run(tmp_path, crash_at=2 * STEPS + 1, validates=validates)
    assert step_of(tmp_path) == 2 * STEPS
    rest = run(tmp_path, resume=tmp_path / "last.ckpt", validates=validates)
    assert rest == losses[2 * STEPS :]


@pytest.mark.slow
@pytest.mark.parametrize("steps", [STEPS + 1, 2 * STEPS, 2 * STEPS + 3])
@pytest.mark.parametrize("validates", [True, False])
def test_a_run_that_ends_at_max_steps_goes_on_from_there(tmp_path, steps, validates):
    whole = run(tmp_path / "whole", validates=validates)
    first = run(tmp_path, max_steps=steps, validates=validates)
    assert step_of(tmp_path) == steps
    rest = run(tmp_path, resume=tmp_path / "last.ckpt", validates=validates)
    assert first + rest == whole
    assert step_of(tmp_path) == 3 * STEPS


def test_validation_within_an_epoch_writes_it_too(tmp_path, losses):
    run(tmp_path, crash_at=STEPS + 3, val_check_interval=2)
    assert step_of(tmp_path) == STEPS + 2
    rest = run(tmp_path, resume=tmp_path / "last.ckpt", val_check_interval=2)
    assert rest == losses[STEPS + 2 :]


def test_it_is_written_once_an_epoch(tmp_path):
    class Counts(SaveLast):
        count = 0

        def _save(self, trainer):
            super()._save(trainer)
            self.count += 1

    for validates in (vectors(), None):
        saver = Counts(str(tmp_path))
        make_trainer(tmp_path, saver, max_epochs=2).fit(Stranger(), vectors(), validates)
        assert (saver.count, saver.step) == (2, 8)


def test_it_can_be_written_every_few_epochs_and_at_the_end(tmp_path):
    steps = []

    class Notes(SaveLast):
        def _save(self, trainer):
            super()._save(trainer)
            steps.append(trainer.global_step)

    saver = Notes(str(tmp_path), every_n_epochs=2)
    make_trainer(tmp_path, saver, max_epochs=5).fit(Stranger(), vectors())
    assert steps == [2 * 4, 4 * 4, 5 * 4]
    with pytest.raises(ValueError, match=r"callbacks.last.every_n_epochs=0 must be at least 1"):
        SaveLast(str(tmp_path), every_n_epochs=0)


def test_validation_alone_and_trials_write_nothing(tmp_path):
    saver = SaveLast(str(tmp_path))
    make_trainer(tmp_path, saver).validate(Stranger(), vectors(), verbose=False)
    trial = make_trainer(tmp_path, saver, fast_dev_run=True)
    trial.fit(Stranger(), vectors(), vectors())
    sanity = make_trainer(tmp_path, saver, Losses(crash_at=0))
    sanity.num_sanity_val_steps = 1
    with pytest.raises(KeyError):
        sanity.fit(Stranger(), vectors(), vectors())
    assert saver.step is None
    assert not (tmp_path / "last.ckpt").exists()


def test_weights_are_those_of_the_last_step(tmp_path):
    module = Stranger()
    make_trainer(tmp_path, SaveLast(str(tmp_path)), max_epochs=2).fit(module, vectors(), vectors())
    saved = read_checkpoint(tmp_path / "last.ckpt")["state_dict"]
    for name, value in module.state_dict().items():
        assert torch.equal(saved[name], value), name


def test_within_an_epoch_it_is_written_every_few_steps_never_between_their_batches(tmp_path):
    saved = []

    class Records(SaveLast):
        def _save(self, trainer):
            super()._save(trainer)
            saved.append((trainer.global_step, trainer.fit_loop.total_batch_idx + 1))

    last = Records(str(tmp_path), every_n_steps=2)
    trainer = make_trainer(tmp_path, last, max_epochs=2, accumulate_grad_batches=2)
    trainer.fit(make_classifier(), datamodule=AugmentedDigits())
    assert {step for step, _ in saved} >= {2, 3, 5, 6}, "3 steps an epoch, and its end"
    assert all(batches == 2 * step for step, batches in saved)


def test_minutes_count_from_the_last_time_it_was_written(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    last = SaveLast(str(tmp_path), every_minutes=1)
    trainer = SimpleNamespace(
        global_step=0,
        strategy=SimpleNamespace(reduce_boolean_decision=lambda late, all: late),
    )
    last._saved, last._seen = (0, 0.0), 0
    due = []
    for step, seconds in enumerate((30, 61, 62, 63), 1):
        trainer.global_step, now[0] = step, seconds
        due.append(last._is_due(cast(Any, trainer)))
        if due[-1]:
            last._saved = step, seconds
    assert due == [False, True, False, False]
