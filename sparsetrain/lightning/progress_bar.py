"""Progress for people at a terminal, and for log files: a row an epoch, and below it a bar."""

from __future__ import annotations

import math
import sys
import time
from typing import TYPE_CHECKING, Any

from lightning_utilities.core.rank_zero import rank_zero_only

from sparsetrain.lightning.callbacks.monitor import first_tensor
from sparsetrain.lightning.callbacks.sparsify import SparsifyModel
from sparsetrain.lightning.flavour import ProgressBar, pl
from sparsetrain.schedule import PHASE_NAMES

if TYPE_CHECKING:  # the callbacks, which are imported with this file, need no rich
    from rich.console import Console
    from rich.progress import Progress

LOSS = "train/loss"
ROW = (LOSS, "val/loss", "val/top1")
SECONDS = 0.2
"""Between two pictures of the bar: each takes the interpreter from the training."""


class EpochLines(ProgressBar):
    """One printed line an epoch: for output that is not a terminal."""

    def __init__(self) -> None:
        super().__init__()
        self.enabled = True
        self._trained = False  # a batch of this epoch

    def disable(self) -> None:
        self.enabled = False

    def enable(self) -> None:
        self.enabled = True

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._trained = True

    @rank_zero_only
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trained, self._trained = self._trained, False
        if not self.enabled or not trained:  # resumed where this epoch had ended
            return
        metrics = trainer.callback_metrics
        words = [f"{key} {float(metrics[key]):.4g}" for key in ROW if key in metrics]
        print("  ".join([_epoch(trainer), f"step {trainer.global_step}", *words]), flush=True)


class Bar(EpochLines):
    """A row an epoch that stays, and below it a bar that fits 80 columns: epoch and phase, the
    share of the run's steps, the time to its end, images a second of all processes, and the loss.

    The loss is the one that loggers get, every `trainer.log_every_n_steps` steps: a number of each
    step would wait for the device in each. The time to the end is that of the steps, validations
    and checkpoints so far, without the first step, which may compile. console: what it is drawn on.
    """

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console

        super().__init__()
        self._console = console or Console(highlight=False)
        self._bar: Progress | None = None
        self._total = math.inf  # optimizer steps of the run
        self._loss = ""
        self._loss_step = 0
        self._drawn = 0.0  # when
        self._first: tuple[int, float] | None = None  # step and time from which the rest is guessed
        self._images, self._since, self._rate = 0, 0.0, 0.0

    @rank_zero_only
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.enabled:
            return
        self._total = float(trainer.estimated_stepping_batches)
        self._loss, self._loss_step, self._first, self._rate = "", 0, None, 0.0
        self._start_counting()
        self._bar = _bar(self._console)
        known = self._total if math.isfinite(self._total) and self._total > 0 else None
        self._bar.add_task("", total=known, where=_epoch(trainer), rest="")
        self._bar.start()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if self._bar is None:
            return
        images = first_tensor(batch)
        self._images += 0 if images is None else len(images) * trainer.world_size
        step = trainer.global_step
        if self._first is None and step > 0:
            self._first = step, time.monotonic()
            self._start_counting()
        every: int = trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]
        if every > 0 and step % every == 0 and step != self._loss_step:
            loss = trainer.callback_metrics.get(LOSS)
            self._loss = "" if loss is None else f"loss {float(loss):.4g}"
            self._loss_step = step
        self._draw(f"{_epoch(trainer)} {_phase(trainer)}", step)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._bar is not None:
            self._draw(f"{_epoch(trainer)} validates", trainer.global_step)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start_counting()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self._stop()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._stop()

    def _draw(self, where: str, step: int) -> None:
        now = time.monotonic()
        if self._bar is None or now - self._drawn < SECONDS:
            return
        self._drawn = now
        if self._images and now > self._since:
            rate = self._images / (now - self._since)
            self._rate = rate if not self._rate else 0.8 * self._rate + 0.2 * rate
            self._start_counting()
        speed = f"{self._rate:,.0f} img/s" if self._rate else ""
        words = (self._left(step, now), speed, self._loss)
        task = self._bar.task_ids[0]
        rest = "  ".join(word for word in words if word)
        self._bar.update(task, completed=step, where=where, rest=rest, refresh=True)

    def _left(self, step: int, now: float) -> str:
        if self._first is None or step <= self._first[0] or not math.isfinite(self._total):
            return ""
        first, began = self._first
        seconds = (now - began) / (step - first) * (self._total - step)
        return f"{step / self._total:.0%}  {duration(seconds)} left"

    def _start_counting(self) -> None:
        self._images, self._since = 0, time.monotonic()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _bar(console: Console) -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.fields[where]}", style="bold"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[rest]}"),
        console=console,
        transient=True,
        expand=True,
        auto_refresh=False,
    )


def duration(seconds: float) -> str:
    """As 0:42, 1:02:03 or 2 d 3 h."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 24:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def progress() -> ProgressBar:
    """A row an epoch, and on a terminal a bar."""
    return Bar() if sys.stdout.isatty() else EpochLines()


def _epoch(trainer: pl.Trainer) -> str:
    epochs = trainer.max_epochs
    of = f"/{epochs}" if epochs is not None and epochs > 0 else ""
    return f"epoch {trainer.current_epoch + 1}{of}"


def _phase(trainer: pl.Trainer) -> str:
    callbacks: list[pl.Callback] = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
    sparsify = next((c for c in callbacks if isinstance(c, SparsifyModel)), None)
    return "" if sparsify is None or sparsify.phase is None else PHASE_NAMES[sparsify.phase]
