"""What a run tells Weights & Biases beside its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparsetrain.lightning.callbacks.monitor import SparsityMonitor
from sparsetrain.lightning.callbacks.record import find, stopped_by
from sparsetrain.lightning.flavour import Callback, WandbLogger, pl
from sparsetrain.lightning.loggers import STEP
from sparsetrain.lightning.pictures import map_picture, mask_picture
from sparsetrain.lightning.report.data import LayerRow, Run
from sparsetrain.nn import LayerStats, shape_text

WANDB_KEY = "sparsetrain_wandb"
"""Where a checkpoint has the id of its W&B run."""

_MOST_COLUMNS = 400  # of a map
_LONGEST_TITLE = 63  # characters of an alert's


class WandbRun(Callback):
    """Give W&B the composed config, a map of all layers for kept energy and one for flip rate after
    each validation, and an alert where training stops early. Checkpoints get the id of its run, so
    that training that goes on from one is the same run there.

    config: plain values. facts: (label, value), from the command to the hardware.
    Without a W&B logger it does nothing. Give this callback after `SparsityMonitor`.
    """

    def __init__(self, config: dict[str, Any], facts: Sequence[tuple[str, str]] = ()) -> None:
        self.config = config
        self.facts = dict(facts)
        self._history: list[tuple[int, list[LayerStats]]] = []  # step, layers

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._history = []
        run = wandb_run(trainer)
        if run is not None:
            run.config.update({**self.config, "run": self.facts}, allow_val_change=True)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        monitor = find(trainer, SparsityMonitor)
        stats = [] if monitor is None else monitor.stats
        if stats and (not self._history or self._history[-1][1] is not stats):
            self._history.append((trainer.global_step - 1, stats))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        run = wandb_run(trainer)
        if run is None or not self._history or trainer.sanity_checking:
            return
        import wandb

        pictures = {f"maps/{key}": wandb.Image(p) for key, p in maps(self._history).items()}
        run.log(pictures | {STEP: trainer.global_step - 1})

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        run = wandb_run(trainer)
        if run is not None:
            checkpoint[WANDB_KEY] = run.id

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        run = wandb_run(trainer)
        if run is not None:
            by_hand = isinstance(exception, KeyboardInterrupt)
            why = stopped_by(exception)
            title = f"{run.name or 'a run'} stopped at step {trainer.global_step}"
            run.alert(title[:_LONGEST_TITLE], why, level="INFO" if by_hand else "ERROR")


def wandb_run(trainer: pl.Trainer) -> Any:
    """The trainer's W&B run, on the first process; None without one."""
    if not trainer.is_global_zero:
        return None
    loggers = (logger for logger in trainer.loggers if isinstance(logger, WandbLogger))
    return next((logger.experiment for logger in loggers), None)


def maps(history: list[tuple[int, list[LayerStats]]]) -> dict[str, Any]:
    """A picture for each number of the layers that was measured: kept_energy, flip_rate."""
    history = history[:: -(-len(history) // _MOST_COLUMNS)]
    steps = [step for step, _ in history]
    names = [layer.name.removeprefix("network.") for layer in history[0][1]]
    pictures = {}
    for key in ("kept_energy", "flip_rate"):
        columns = [[getattr(layer, key) for layer in stats] for _, stats in history]
        values = np.array(columns, dtype=float).T  # None becomes NaN
        if np.isfinite(values).any():
            pictures[key] = map_picture(names, steps, values)
    return pictures


def _measured(row: LayerRow) -> tuple[float | None, ...]:
    return row.density, row.kept_energy, row.flip_rate


def log_files(run: Any, record: Run, files: dict[str, Path]) -> None:
    """Masks, the table of layers, and files of a run that is done, as an artifact each.

    files: paths by the kind of artifact; missing ones are skipped. Checkpoints (.ckpt) are not
    copied: an offline run uploads them from where they lie when it is synced.
    """
    import wandb

    if record.masks:
        pictures = [wandb.Image(mask_picture(pair), caption=pair.name) for pair in record.masks]
        run.log({"masks": pictures})
    if record.layers:
        columns: list[Any] = [
            "layer",
            "shape",
            "runs",
            "engine",
            "density",
            "kept energy",
            "flip rate",
        ]
        rows: list[Any] = [
            [r.name, shape_text(r.shape), r.runs, r.engine or r.reason, *_measured(r)]
            for r in record.layers
        ]
        run.log({"layers": wandb.Table(columns=columns, data=rows)})
    for kind, path in files.items():
        if path.is_file():
            artifact = wandb.Artifact(f"{kind}-{run.id}", type=kind)
            large = path.suffix == ".ckpt"
            artifact.add_file(str(path), policy="immutable" if large else "mutable")
            run.log_artifact(artifact)
