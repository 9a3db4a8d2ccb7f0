"""What a run says of itself, kept in its folder while it runs."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from sparsetrain.lightning.callbacks.monitor import SparsityMonitor
from sparsetrain.lightning.callbacks.snapshots import MaskSnapshots
from sparsetrain.lightning.callbacks.sparsify import SparsifyModel
from sparsetrain.lightning.flavour import Callback, pl
from sparsetrain.lightning.report.data import LayerRow, MaskPair, Run, Span
from sparsetrain.lightning.report.record import write_record
from sparsetrain.nn import LayerStats, inspect
from sparsetrain.schedule import Phase


class KeepRecord(Callback):
    """Write `folder`/run.json when training begins, after each validation, and when it ends: by
    itself, by Ctrl-C or by an error.

    run: what is known before training: title, facts, notes, overrides, config.
    Give this callback after `SparsifyModel`, `SparsityMonitor` and `MaskSnapshots`.
    """

    def __init__(self, folder: str, run: Run) -> None:
        self.folder = Path(folder)
        self.run = run
        self._phases: list[tuple[Phase, int]] = []  # each with its first step

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._phases = []
        self.run = replace(self.run, started=time.time())
        self._write(trainer, "running", [])

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        sparsify = find(trainer, SparsifyModel)
        phase = None if sparsify is None else sparsify.phase
        if phase is not None and (not self._phases or self._phases[-1][0] != phase):
            self._phases.append((phase, trainer.global_step))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._write(trainer, "running", self._last_stats(trainer))

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # On every process: weights that are sharded are gathered.
        snapshots = find(trainer, MaskSnapshots)
        after = {} if snapshots is None else snapshots.now(pl_module)
        pairs = [] if snapshots is None else snapshots.before.items()
        units = {} if snapshots is None else snapshots.units(pl_module)
        masks = tuple(
            MaskPair(_short(n), mask.numpy(), after[n].numpy(), units[n])
            for n, mask in pairs
            if n in after and mask.shape == after[n].shape
        )
        self.run = replace(self.run, masks=masks)
        self._write(trainer, "finished", inspect(pl_module))

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        if self.run.started is not None:
            self._write(trainer, stopped_by(exception), self._last_stats(trainer))

    def _last_stats(self, trainer: pl.Trainer) -> list[LayerStats]:
        monitor = find(trainer, SparsityMonitor)
        return [] if monitor is None else monitor.stats

    def _write(self, trainer: pl.Trainer, state: str, stats: list[LayerStats]) -> None:
        if not trainer.is_global_zero:
            return
        sparsify = find(trainer, SparsifyModel)
        report = None if sparsify is None else sparsify.report
        self.run = replace(
            self.run,
            state=state,
            phases=tuple(_spans(self._phases, trainer.global_step)),
            layers=() if report is None else tuple(_layers(report, stats)),
            shares="" if report is None or report.shares is None else str(report.shares),
        )
        write_record(self.folder, self.run)


def find(trainer: pl.Trainer, kind: Any) -> Any:
    """The first callback of a kind, None without one."""
    callbacks: list[Callback] = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
    return next((c for c in callbacks if isinstance(c, kind)), None)


def stopped_by(exception: BaseException) -> str:
    """Why a run stopped, in a line."""
    if isinstance(exception, KeyboardInterrupt):
        return "interrupted"
    lines = str(exception).strip().splitlines()
    return f"stopped: {lines[0] if lines else type(exception).__name__}"


def _spans(phases: list[tuple[Phase, int]], end: int) -> list[Span]:
    starts = [*phases, ("", end)]
    return [
        Span(phase.replace("_", " "), start, stop)
        for (phase, start), (_, stop) in pairwise(starts)
        if start < stop
    ]


def _layers(report: Any, stats: list[LayerStats]) -> list[LayerRow]:
    numbers = {s.name: s for s in stats}
    rows = []
    for layer in (*report.converted, *report.dense):
        row = LayerRow(_short(layer.name), layer.shape, layer.runs, layer.engine)
        measured = numbers.get(layer.name)
        if measured is not None:
            row = replace(
                row,
                density=measured.density,
                kept_energy=measured.kept_energy,
                outer_energy=measured.outer_energy,
                flip_rate=measured.flip_rate,
            )
        rows.append(replace(row, reason=layer.reason))
    return rows


def _short(name: str) -> str:
    return name.removeprefix("network.")
