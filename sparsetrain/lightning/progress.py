"""Progress for people at a terminal, and for log files."""

from __future__ import annotations

import sys

from lightning_utilities.core.rank_zero import rank_zero_only

from sparsetrain.lightning.flavour import ProgressBar, RichProgressBar, pl

LOSS = "train/loss"
REFRESH_RATE = 5
"""Pictures of the bar a second: each takes the interpreter from the training. Lightning: 100."""


class EpochLines(ProgressBar):
    """One printed line an epoch: for output that is not a terminal."""

    def __init__(self) -> None:
        super().__init__()
        self.enabled = True

    def disable(self) -> None:
        self.enabled = False

    def enable(self) -> None:
        self.enabled = True

    @rank_zero_only
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.enabled:
            return
        metrics = {
            key: f"{float(value):.4g}"
            for key, value in trainer.callback_metrics.items()
            if key in (LOSS, "val/loss", "val/top1")
        }
        words = "  ".join(f"{key} {value}" for key, value in metrics.items())
        epochs = trainer.max_epochs
        of = f"/{epochs}" if epochs is not None and epochs > 0 else ""
        print(
            f"epoch {trainer.current_epoch + 1}{of}  step {trainer.global_step}  {words}",
            flush=True,
        )


class Bar(RichProgressBar):
    """Lightning's bar with the loss as loggers get it, every `trainer.log_every_n_steps` steps: a
    number of each step would wait for the device in each. Without the number of the logger's
    version, which would wrap the bar."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=REFRESH_RATE, leave=False)
        self._loss: dict[str, int | str | float | dict[str, float]] = {}
        self._step = 0  # of that loss

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._loss, self._step = {}, 0  # were the last run's

    def get_metrics(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        step, every = trainer.global_step, trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]
        if every > 0 and step % every == 0 and step != self._step and trainer.training:
            loss = trainer.callback_metrics.get(LOSS)
            self._loss = {} if loss is None else {LOSS: float(loss)}
            self._step = step
        return self._loss | metrics


def progress() -> ProgressBar:
    """A progress bar on a terminal, a line an epoch elsewhere."""
    return Bar() if sys.stdout.isatty() else EpochLines()
