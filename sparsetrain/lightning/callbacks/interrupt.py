"""Stopping well when asked to."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from sparsetrain.lightning.flavour import Checkpoint, SLURMEnvironment, pl


class SaveOnInterrupt(Checkpoint):
    """On Ctrl-C or SIGTERM (docker, SLURM's end of a job): finish the optimizer step, save
    `interrupted.ckpt`, stop. A second one stops at once.

    In a SLURM job whose `--signal=USR1@90` comes before its time is up, Lightning saves the run and
    queues the job again. It would do so amid a step; here that waits for the step's end as well.

    asked: the signal that stopped the run that ended last, None if none did. saved: whether
    `interrupted.ckpt` was written for it.

    A `Checkpoint`, because Lightning runs those last: what other callbacks do at the end of a
    batch (averaging the weights) is in the file.
    """

    def __init__(self, folder: str) -> None:
        self.path = Path(folder) / "interrupted.ckpt"
        self.saved = False
        self.asked: int | None = None
        self._previous: dict[int, Any] = {}
        self._step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.saved, self.asked, self._step = False, None, trainer.global_step
        signals = [signal.SIGINT, signal.SIGTERM]
        if SLURMEnvironment.detect() and callable(signal.getsignal(signal.SIGUSR1)):
            signals.append(signal.SIGUSR1)
        self._previous = {number: signal.signal(number, self._ask) for number in signals}

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if trainer.global_step == self._step:
            # Between the batches of one step: their gradients are in no checkpoint.
            return
        self._step = trainer.global_step
        if not trainer.strategy.reduce_boolean_decision(self.asked is not None, all=False):
            return
        if self.asked == signal.SIGUSR1:
            self._previous[self.asked](self.asked, None)  # Lightning's: save, queue again
        else:
            trainer.save_checkpoint(self.path)
            self.saved = True
        raise KeyboardInterrupt

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._release()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self._release()

    def _ask(self, signum: int, frame: Any) -> None:
        if self.asked is not None and signum != signal.SIGUSR1:
            raise KeyboardInterrupt
        self.asked = signum

    def _release(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
