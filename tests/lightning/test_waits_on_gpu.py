"""A training step on a GPU waits for nothing, and a number that is not finite is still caught."""

import pytest
import pytorch_lightning as pl
import torch
from breaking import Breaks, assert_as_just_before, infinite_gradient, nan_image
from lightning_helpers import CHATTER, AugmentedDigits, make_classifier, make_trainer, vectors
from pytorch_lightning.loggers import CSVLogger

from sparsetrain import SRSTE, Schedule, SparsifyModel, Sparsity
from sparsetrain.errors import NonFiniteError
from sparsetrain.lightning import (
    EMA,
    MaskSnapshots,
    Mix,
    SaveOnInterrupt,
    SparsityMonitor,
    StepSeed,
    StopOnNonFinite,
)
from sparsetrain.lightning.progress_bar import Bar, EpochLines

prototype = "ignore:Synchronization debug mode is a prototype:UserWarning"
pytestmark = [pytest.mark.gpu, *CHATTER, pytest.mark.filterwarnings(prototype)]
GPU = {"accelerator": "gpu", "devices": 1}


class Strict(pl.Callback):
    """Whatever waits for the GPU between the starts of two batches raises."""

    def __init__(self, first, last):
        self.first, self.last = first, last

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == self.first:
            torch.cuda.set_sync_debug_mode("error")
        if batch_idx == self.last:
            torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def sync_debug_mode():
    yield
    torch.cuda.set_sync_debug_mode("default")


class Ahead(pl.Callback):
    """Whether the GPU was still at work when the host was done with a batch."""

    def __init__(self):
        self.busy = []

    def on_train_batch_end(self, *_):
        self.busy.append(not torch.cuda.current_stream().query())


class Slow(Breaks):
    def training_step(self, batch):
        torch.cuda._sleep(200_000_000)
        return super().training_step(batch)


def keep_going(module, batch):
    return batch


def test_the_checks_of_a_step_wait_for_nothing(tmp_path, sync_debug_mode):
    module = Breaks(keep_going, fused=True)
    trainer = make_trainer(tmp_path, Strict(2, 7), StopOnNonFinite(), **GPU)
    trainer.fit(module, vectors(32))
    assert trainer.global_step == 8


def test_the_host_is_done_with_a_batch_before_the_gpu_is(tmp_path):
    module, ahead = Slow(keep_going, fused=True), Ahead()
    make_trainer(tmp_path, StopOnNonFinite(), ahead, **GPU).fit(module, vectors(32))
    assert ahead.busy[1:] == [True] * 7  # the first step sets things up


def fit_strictly(folder, *callbacks, length, **where):
    """Train 12 steps as `fit` does. Raises if a step between the logged ones waits for its GPU."""
    sparsity = Sparsity(("*mlp*",), weight=SRSTE(), schedule=Schedule(mask_every=40))
    trainer = pl.Trainer(
        **where,
        precision="bf16-mixed",
        max_epochs=1,
        callbacks=[
            Strict(3, 11),
            SparsifyModel(sparsity),
            StepSeed(0),
            StopOnNonFinite(),
            SparsityMonitor(),
            *callbacks,
            EMA(decay=0.9),
            SaveOnInterrupt(str(folder)),
        ],
        logger=CSVLogger(folder),
        log_every_n_steps=12,
        gradient_clip_val=1.0,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
    )
    mix = Mix(label_smoothing=0.1, mixup=0.8, cutmix=1.0)
    trainer.fit(make_classifier(mix), datamodule=AugmentedDigits(length=length))
    assert trainer.global_step == 12


@pytest.mark.parametrize("bar", [Bar, EpochLines])
def test_nothing_in_fits_step_waits_between_the_steps_that_are_logged(
    tmp_path, sync_debug_mode, bar
):
    fit_strictly(tmp_path, MaskSnapshots(), bar(), length=48, **GPU)


def nan_gradient(module, batch):
    def spoil(layer, x, out):
        handle.remove()
        out.register_hook(lambda grad: grad * torch.nan)

    handle = module.body[4].register_forward_hook(spoil)
    return batch


@pytest.mark.parametrize(
    ("breaks", "said"),
    [
        (nan_image, "step 2: loss is nan; the images already hold non-finite values"),
        (nan_gradient, r"step 2: the gradient of body\.2\.bias is not finite \(4 parameters"),
        (infinite_gradient, r"step 2: the gradient of body\.2\.bias is not finite \(4 parameters"),
    ],
)
def test_it_raises_a_batch_later_with_weights_and_optimizer_as_they_were(tmp_path, breaks, said):
    module = Breaks(breaks, fused=True)
    trainer = make_trainer(tmp_path, StopOnNonFinite(), **GPU)
    with pytest.raises(NonFiniteError, match=said):
        trainer.fit(module, vectors(32))
    assert len(module.losses) == 4
    module.cpu()
    module.weights = {name: value.cpu() for name, value in module.weights.items()}
    assert_as_just_before(module)
    for state in trainer.optimizers[0].state.values():
        assert float(state["step"]) == 2
        assert torch.isfinite(state["exp_avg"]).all()
