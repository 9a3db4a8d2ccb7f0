"""How long a trainer's run is."""

from __future__ import annotations

import math
from typing import Any

from sparsetrain.lightning.flavour import each, pl
from sparsetrain.schedule import Schedule, check_total

_ACCUMULATES = each("callbacks.GradientAccumulationScheduler")


def total_steps(trainer: pl.Trainer) -> int | None:
    """Optimizer steps of the whole run; None for one without an end."""
    total = trainer.estimated_stepping_batches  # -1 for endless data with max_epochs
    return int(total) if math.isfinite(total) and total > 0 else None


def check_end(trainer: pl.Trainer, schedule: Schedule) -> None:
    """Raise ValueError where a schedule in fractions meets a run without an end."""
    try:
        check_total(schedule, total_steps(trainer))
    except ValueError as error:
        ends = f"max_epochs={trainer.max_epochs}, max_steps={trainer.max_steps}"
        endless = trainer.max_epochs not in (-1, None)
        fix = "set max_steps, or limit_train_batches" if endless else "set one of them"
        raise ValueError(f"trainer.{ends}: {fix} ({error})") from error


def share_done(trainer: pl.Trainer) -> float | None:
    """Before a batch: the share of the run's batches that are done, of a loop that steps by hand
    or accumulates more batches from some epoch on; None where the number of steps is known before,
    or that of batches is not."""
    callbacks: list[Any] = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
    by_hand = not trainer.lightning_module.automatic_optimization
    changes = any(isinstance(callback, _ACCUMULATES) for callback in callbacks)
    if trainer.max_steps != -1 or not (by_hand or changes) or total_steps(trainer) is None:
        return None
    batches = trainer.num_training_batches * (trainer.max_epochs or 0)
    return trainer.fit_loop.epoch_loop.total_batch_idx / batches if batches else None
