"""What a finished run prints: accuracy, density, speed, and where its files are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytorch_lightning.callbacks import ModelCheckpoint

from sparsetrain.cli.console import relative
from sparsetrain.lightning import SaveLast, SparsifyModel
from sparsetrain.lightning.callbacks.record import find
from sparsetrain.lightning.flavour import pl
from sparsetrain.lightning.report import Run
from sparsetrain.lightning.report.measures import best, density, images_per_s, validations


def summary_of(trainer: pl.Trainer, run: Run, data: Any) -> tuple[tuple[str, str], ...]:
    """Labels and values of a run that is done."""
    rows = [("data", data.name)]
    top, all_of_them = best(run), validations(run)
    if top is not None:
        end = f"{all_of_them[-1].top1:.2f} % at the end"
        rows.append(("top-1", f"{end}, {top.top1:.2f} % at best"))
    rows.append(("density", _density(find(trainer, SparsifyModel), run)))
    speed = images_per_s(run)
    if speed is not None:
        rows.append(("throughput", f"{speed:,.0f} images/s"))
    rows.append(("optimizer steps", f"{trainer.global_step:,}"))
    checkpoint, last = find(trainer, ModelCheckpoint), find(trainer, SaveLast)
    if checkpoint is not None:
        path = checkpoint.best_model_path
        rows.append(("best checkpoint", str(relative(path)) if path else "none: no validation ran"))
    if last is not None:
        rows.append(
            ("last checkpoint", "none" if last.step is None else str(relative(Path(last.path))))
        )
    return tuple(rows)


def _density(sparsify: SparsifyModel, run: Run) -> str:
    share = density(run)
    if share is None:
        rules = sparsify.sparsity.rules
        activations = sorted({part.activation.describe() for part in rules if part.activation})
        return ", ".join(["weights dense", *activations])
    count = sum(row.density is not None for row in run.layers)
    words = f"{share:.3f} in {count} sparse layers"
    return words + (" (dense tail)" if sparsify.phase == "dense_tail" else "")
