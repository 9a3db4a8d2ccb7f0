"""Callbacks that tests add to a run from the command line."""

import atexit
import multiprocessing
import os
import resource
import shutil
import signal
import time
from pathlib import Path

import pytorch_lightning as pl
import torch

from sparsetrain.nn import sparse_state


class SaveMasks(pl.Callback):
    """Write each process's masks at the end of training to `folder`/<rank>.pt."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        masks = {name: layer["mask"] for name, layer in sparse_state(pl_module).items()}
        self.folder.mkdir(exist_ok=True)
        torch.save(masks, self.folder / f"{trainer.global_rank}.pt")


class PressCtrlC(pl.Callback):
    """Send SIGINT, or another signal, to this process when an optimizer step begins, once or more
    often. rank: of the only process that does, None for all."""

    def __init__(
        self, step: int, times: int = 1, number: int = signal.SIGINT, rank: int | None = None
    ) -> None:
        self.step = step
        self.times = times
        self.number = number
        self.rank = rank

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.global_step == self.step and self.rank in (None, trainer.global_rank):
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)


class PressCtrlCInValidation(pl.Callback):
    """Send SIGINT to this process in a batch of the validation after an optimizer step."""

    def __init__(self, step: int, batch: int) -> None:
        self.place = step, batch

    def on_validation_batch_end(
        self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0
    ) -> None:
        if (trainer.global_step, batch_idx) == self.place:
            os.kill(os.getpid(), signal.SIGINT)


class KillALoadingProcess(pl.Callback):
    """Kill a loading process when an optimizer step begins, as Linux does where memory runs out."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.global_step == self.step:
            # The newest: tests before may have left processes of theirs.
            max(multiprocessing.active_children(), key=lambda child: child.pid or 0).kill()


class RemoveFolder(pl.Callback):
    """Remove a folder when an optimizer step begins."""

    def __init__(self, step: int, folder: str) -> None:
        self.step = step
        self.folder = folder

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.global_step == self.step:
            shutil.rmtree(self.folder)


class EndSlowly(pl.Callback):
    """The first process of a run takes a while to end, as one that uploads does; or each takes a
    while to leave Python, as NCCL can make it."""

    def __init__(self, leave: bool = False) -> None:
        self.leave = leave

    def on_exception(self, trainer, pl_module, exception) -> None:
        if self.leave:
            atexit.register(time.sleep, 12)
        elif trainer.is_global_zero:
            time.sleep(12)


class FillTheDisk(pl.Callback):
    """From an optimizer step on, no file of this process may grow beyond a few bytes."""

    def __init__(self, step: int, size: int = 20_000) -> None:
        self.step = step
        self.size = size

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.global_step == self.step:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, resource.RLIM_INFINITY))

    def on_exception(self, trainer, pl_module, exception) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


class PlantNaN(pl.Callback):
    """Write a NaN into the first parameter when an optimizer step begins."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.global_step == self.step:
            next(pl_module.parameters()).data.view(-1)[0] = float("nan")
