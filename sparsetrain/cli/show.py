"""What the commands print: banner, table of layers, summary."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning_fabric.utilities.rank_zero import rank_zero_only
from rich.panel import Panel
from rich.table import Table

from sparsetrain.cli.console import console, print_lines, relative, show_values
from sparsetrain.lightning import EMA, SparsifyModel
from sparsetrain.lightning.flavour import pl
from sparsetrain.nn import LayerReport, Report, grouped, shape_text
from sparsetrain.schedule import PHASE_NAMES, Phase


@rank_zero_only
def show_banner(notes: tuple[str, ...]) -> None:
    for note in notes:
        console.print(Panel(note, border_style="yellow", width=min(console.width, 100)))


@rank_zero_only
def show_lines(lines: tuple[str, ...]) -> None:
    print_lines(lines)


def show_line(line: str) -> None:
    show_lines((line,))


class ShowLayers(pl.Callback):
    """Print what trains on what, and the table of layers, before the first step; then each change
    of phase."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._phase: Phase | None = None

    @rank_zero_only
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        count = sum(p.numel() for p in pl_module.parameters())
        devices = f"{trainer.world_size} × {pl_module.device.type}"
        show_lines((self.title, f"{count / 1e6:.1f} M parameters on {devices}"))
        sparsify = _sparsify_of(trainer)
        assert sparsify.report is not None, "setup comes before on_fit_start"
        show_layers(sparsify.report)

    @rank_zero_only
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Not before: counting the steps makes the training loader, before a resumed run is there.
        show_lines(tuple(_long_average(trainer)))

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        before, self._phase = self._phase, _sparsify_of(trainer).phase
        if self._phase is not None and before not in (None, self._phase):
            compiled = any(m._compiled_call_impl for m in pl_module.modules())
            again = ": what is compiled compiles once for it" if compiled else ""
            name = PHASE_NAMES[self._phase]
            show_lines((f"step {trainer.global_step}: phase {name} begins{again}",))


def _long_average(trainer: pl.Trainer) -> Iterator[str]:
    """That the average of the weights would hold little but the first ones to the end."""
    callbacks: list[pl.Callback] = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
    steps = trainer.estimated_stepping_batches
    for ema in (callback for callback in callbacks if isinstance(callback, EMA)):
        length = 1 / (1 - ema.decay) if ema.decay < 1 else math.inf
        if steps < length:
            yield (
                f"callbacks.ema.decay={ema.decay} averages the weights of {length:,.0f} steps, and "
                f"this run has {steps:,.0f}: what is validated stays near the first weights"
            )


def _sparsify_of(trainer: pl.Trainer) -> SparsifyModel:
    callbacks: list[pl.Callback] = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
    return next(c for c in callbacks if isinstance(c, SparsifyModel))


def show_layers(report: Report) -> None:
    """The report's layers as a table, one row for each kind of layer."""
    if not report.converted:
        console.print("every layer dense: sparsity.weight and sparsity.activation are null")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("layer", no_wrap=True)
    table.add_column("count", justify="right")
    for header in ("shape", "runs", "engine, or why dense"):
        table.add_column(header)
    for row, count in grouped(report.converted):
        table.add_row(_name(row), str(count), shape_text(row.shape), row.runs, row.engine)
    for row, count in grouped(report.dense):
        cells = _name(row), str(count), shape_text(row.shape), row.runs, row.reason
        table.add_row(*cells, style="dim")
    console.print(table)
    console.print(str(report.shares), highlight=False)
    for line in filter(None, (report.fused, report.fp8)):
        console.print(line, style="dim")
    if report.kernels:
        console.print(report.kernels, style="yellow")


def show_summary(summary: tuple[tuple[str, str], ...], run_dir: Path, url: str | None) -> None:
    """url: where W&B shows the run, None offline."""
    rows = [*summary, ("report", str(relative(run_dir / "report.html")))]
    rows += [] if url is None else [("W&B", url)]
    rows += [
        ("W&B, offline", f"wandb sync {relative(path)}")
        for path in sorted((run_dir / "wandb").glob("offline-run-*"))
    ]
    show_values(tuple(rows))


def _name(row: LayerReport) -> str:
    return row.name.removeprefix("network.")
