"""The newest checkpoint of a run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from sparsetrain.lightning.flavour import Checkpoint, pl


class SaveLast(Checkpoint):
    """Write `last.ckpt` after each validation during training, at the end of every n-th epoch
    without one and of the last, and after the last step of `max_steps`; and within epochs after
    `every_n_steps` optimizer steps or `every_minutes` minutes without one, where they are given.
    It is there whether or not it is the best: Lightning's `save_last` (2.6) writes only what its
    ModelCheckpoint saves for another reason.

    A `Checkpoint`, because Lightning runs those last. step: the optimizer step that it is of, None
    before it was written.
    """

    def __init__(
        self,
        folder: str,
        every_n_epochs: int = 1,
        every_n_steps: int | None = None,
        every_minutes: float | None = None,
    ) -> None:
        if every_n_epochs < 1:
            raise ValueError(f"callbacks.last.every_n_epochs={every_n_epochs} must be at least 1")
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(f"callbacks.last.every_n_steps={every_n_steps} must be at least 1")
        if every_minutes is not None and every_minutes <= 0:
            raise ValueError(f"callbacks.last.every_minutes={every_minutes} must be above 0")
        self.path = Path(folder) / "last.ckpt"
        self.every_n_epochs = every_n_epochs
        self.every_n_steps = every_n_steps
        self.every_minutes = every_minutes
        self.step: int | None = None
        self._saved = 0, 0.0  # at which optimizer step, and when
        self._seen = 0  # the optimizer step after the last batch
        self._validated = -1  # optimizer step

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.step, self._validated = None, -1
        self._saved, self._seen = (trainer.global_step, time.monotonic()), trainer.global_step

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        # Not at the end of training: Lightning then takes the epoch for a whole one.
        if trainer.global_step == trainer.max_steps or self._is_due(trainer):
            self._save(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._validated = trainer.global_step
            self._save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        whole = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        done = trainer.current_epoch + 1
        due = done % self.every_n_epochs == 0 or done == trainer.max_epochs
        if whole and due and self._validated != trainer.global_step:
            self._save(trainer)

    def _is_due(self, trainer: pl.Trainer) -> bool:
        """Within an epoch; never between the batches of one step, whose gradients no file has."""
        before, self._seen = self._seen, trainer.global_step
        if trainer.global_step == before:
            return False
        step, when = self._saved
        if self.every_n_steps is not None and trainer.global_step - step >= self.every_n_steps:
            return True
        if self.every_minutes is None:
            return False
        # The clocks of processes differ, and all of them save.
        late = time.monotonic() - when >= 60 * self.every_minutes
        return trainer.strategy.reduce_boolean_decision(late, all=False)

    def _save(self, trainer: pl.Trainer) -> None:
        if not trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
            trainer.save_checkpoint(self.path)
            self.step = trainer.global_step
            self._saved = self.step, time.monotonic()
