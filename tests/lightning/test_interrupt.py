"""Ctrl-C finishes the step, saves it, and stops; a second one stops at once."""

import os
import signal
from itertools import count

import pytest
import pytorch_lightning as pl
import torch
from lightning_helpers import CHATTER, AugmentedDigits, make_classifier, make_trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from sparsetrain import SRSTE, Schedule, SparsifyModel, Sparsity
from sparsetrain.lightning import EMA, SaveOnInterrupt, StepSeed, read_checkpoint
from sparsetrain.lightning.callbacks import interrupt

pytestmark = CHATTER
# 24 images in batches of 4, two batches a step: 3 steps an epoch.
AT_BATCH = 8  # the first of step 4


class Recorder(pl.Callback):
    def __init__(self, signals=0):
        self.signals = signals
        self.losses = []
        self.stopped = False

    def on_train_batch_start(self, trainer, *_):
        if trainer.fit_loop.total_batch_idx == AT_BATCH:
            for _ in range(self.signals):
                os.kill(os.getpid(), signal.SIGINT)

    def on_train_batch_end(self, trainer, pl_module, outputs, *_):
        self.losses.append(float(outputs["loss"]))


def run(folder, *, signals=0, resume=None):
    sparsity = Sparsity(("*mlp*",), weight=SRSTE(), schedule=Schedule(mask_every=3))
    module, recorder = make_classifier(), Recorder(signals)
    trainer = make_trainer(
        folder,
        SparsifyModel(sparsity),
        StepSeed(0),
        SaveOnInterrupt(str(folder / "saved")),
        recorder,
        EMA(decay=0.5),
        max_epochs=3,
        accumulate_grad_batches=2,
    )
    try:
        trainer.fit(module, datamodule=AugmentedDigits(), ckpt_path=resume)
    except SystemExit:  # what Lightning makes of KeyboardInterrupt
        recorder.stopped = True
    return module, recorder


@pytest.fixture
def handler():
    """A SIGINT handler of the surroundings, put back whatever a test leaves behind."""
    before = signal.getsignal(signal.SIGINT)

    def mine(signum, frame):
        raise AssertionError("the surroundings' handler was called")

    signal.signal(signal.SIGINT, mine)
    yield mine
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_waits_for_the_whole_step_and_saves_it(tmp_path, handler):
    _, recorder = run(tmp_path, signals=1)
    assert signal.getsignal(signal.SIGINT) is handler, "that of the surroundings is put back"
    assert recorder.stopped
    assert len(recorder.losses) == AT_BATCH + 2
    assert read_checkpoint(tmp_path / "saved" / "interrupted.ckpt")["global_step"] == 5


@pytest.mark.parametrize("signals", [0, 1])
def test_after_a_run_every_handler_is_as_before(tmp_path, handler, signals):
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    assert before[1] == signal.SIG_DFL, "what a test before left"
    run(tmp_path, signals=signals)
    assert [signal.getsignal(number) for number in numbers] == before


def test_an_interrupted_run_is_resumed_bit_by_bit(tmp_path, handler):
    whole, losses = run(tmp_path)
    assert signal.getsignal(signal.SIGINT) is handler
    run(tmp_path, signals=1)
    resumed, rest = run(tmp_path, resume=tmp_path / "saved" / "interrupted.ckpt")
    assert rest.losses == losses.losses[AT_BATCH + 2 :]
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_a_second_interrupt_stops_at_once_and_saves_nothing(tmp_path, handler, monkeypatch):
    monkeypatch.setattr(interrupt, "monotonic", count().__next__)  # a second later
    _, recorder = run(tmp_path, signals=2)
    assert signal.getsignal(signal.SIGINT) is handler
    assert recorder.stopped
    assert len(recorder.losses) == AT_BATCH
    assert not (tmp_path / "saved").exists()


def test_a_second_signal_right_after_the_first_is_the_first_passed_on(tmp_path, handler):
    run(tmp_path, signals=2)
    assert read_checkpoint(tmp_path / "saved" / "interrupted.ckpt")["global_step"] == 5


def test_under_torchrun_a_second_one_is_the_first_passed_on(tmp_path, handler, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_torchelastic_launched", lambda: True)
    monkeypatch.setattr(interrupt, "monotonic", count().__next__)  # seconds later
    run(tmp_path, signals=2)
    assert read_checkpoint(tmp_path / "saved" / "interrupted.ckpt")["global_step"] == 5


def test_the_handler_is_put_back_after_an_error_too(tmp_path, handler):
    class Fails(pl.Callback):
        def on_train_batch_end(self, *_):
            raise KeyError("broken")

    saver = SaveOnInterrupt(str(tmp_path))
    trainer = make_trainer(tmp_path, saver, Fails())
    with pytest.raises(KeyError):
        trainer.fit(make_classifier(), datamodule=AugmentedDigits())
    assert signal.getsignal(signal.SIGINT) is handler


def test_it_runs_after_every_callback_that_is_no_checkpoint(tmp_path):
    saver, other = SaveOnInterrupt(str(tmp_path)), ModelCheckpoint(tmp_path)
    trainer = make_trainer(tmp_path, other, saver, StepSeed(0))
    assert trainer.callbacks[-2:] == [other, saver]
    assert trainer.checkpoint_callback is other
