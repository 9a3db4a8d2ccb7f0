"""Stopping well when asked to."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from sparsetrain.lightning.flavour import Checkpoint, pl


class SaveOnInterrupt(Checkpoint):
    """On Ctrl-C: finish the optimizer step, save `interrupted.ckpt`, stop. A second Ctrl-C stops
    at once. saved: whether it did in the run that ended last.

    A `Checkpoint`, because Lightning runs those last: what other callbacks do at the end of a
    batch (averaging the weights) is in the file.
    """

    def __init__(self, folder: str) -> None:
        self.path = Path(folder) / "interrupted.ckpt"
        self.saved = False
        self._previous: Any = None
        self._asked = False
        self._step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.saved, self._asked, self._step = False, False, trainer.global_step
        self._previous = signal.signal(signal.SIGINT, self._ask)

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
        if trainer.strategy.reduce_boolean_decision(self._asked, all=False):
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
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True

    def _release(self) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None
