"""Data without a length, batches that are dicts, optimizers that are stepped by hand."""

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from lightning_helpers import CHATTER
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

import sparsetrain as st
from sparsetrain.schedule import Schedule

pytestmark = [*CHATTER]
QUIET: Any = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class Stream(IterableDataset):
    def __iter__(self):
        return (torch.randn(16) for _ in range(32))


class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(16, 16)

    def training_step(self, batch):
        return self.net(batch["x"] if isinstance(batch, dict) else batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


class Pair(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)

    def training_step(self, batch):
        optimizers: Any = self.optimizers()
        for optimizer, net in zip(optimizers, (self.a, self.b), strict=True):
            optimizer.zero_grad()
            self.manual_backward(net(batch).square().mean())
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.SGD(net.parameters(), 0.01) for net in (self.a, self.b)]


class Accumulates(Module):
    """Steps by hand, after every fourth batch."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer: Any = self.optimizers()
        self.manual_backward(super().training_step(batch))
        if batch_idx % 4 == 3:
            optimizer.step()
            optimizer.zero_grad()


def test_endless_data_trains_sparse():
    module, callback = Module(), st.SparsifyModel(st.Sparsity())
    trainer = pl.Trainer(max_epochs=2, callbacks=[callback], **QUIET)
    trainer.fit(module, DataLoader(Stream(), 4))
    assert callback.phase == "sparse"
    assert st.density(module) == 0.5


def test_endless_data_refuses_a_schedule_in_fractions():
    callback = st.SparsifyModel(st.Sparsity(schedule=Schedule(dense_tail=0.5)))
    trainer = pl.Trainer(max_epochs=2, callbacks=[callback], **QUIET)
    with pytest.raises(ValueError, match="max_epochs=2, max_steps=-1: set max_steps, or limit"):
        trainer.fit(Module(), DataLoader(Stream(), 4))


def test_the_monitor_takes_dicts():
    data: Any = [{"x": torch.randn(16)} for _ in range(16)]
    monitor = st.SparsityMonitor()
    callbacks = [st.SparsifyModel(st.Sparsity()), monitor]
    trainer = pl.Trainer(max_epochs=1, log_every_n_steps=1, callbacks=callbacks, **QUIET)
    trainer.fit(Module(), DataLoader(data, 4))
    assert monitor.images_per_s is not None
    assert monitor.images_per_s > 0


@pytest.mark.parametrize(
    ("module", "batches", "phases"),
    [(Pair(), 16, [4, 8, 4]), (Accumulates(), 32, [8, 16, 8])],
    ids=["two optimizers", "accumulation"],
)
def test_steps_by_hand_go_through_the_phases_once(module, batches, phases):
    seen = []

    class Log(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            seen.append(callback.phase)

    callback = st.SparsifyModel(st.Sparsity(schedule=Schedule(0.25, 0.25)))
    trainer = pl.Trainer(max_epochs=1, callbacks=[callback, Log()], **QUIET)
    trainer.fit(module, DataLoader(torch.randn(batches, 16), 1))  # pyright: ignore[reportArgumentType]
    assert [seen.count(p) for p in ("dense_warmup", "sparse", "dense_tail")] == phases
