"""A finished run as the report that is written and the summary that is printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint

from sparsetrain.cli.console import relative
from sparsetrain.lightning import MaskSnapshots, SaveLast, SparsifyModel, SparsityMonitor
from sparsetrain.lightning.flavour import pl
from sparsetrain.lightning.report import (
    Curve,
    LayerRow,
    MaskPair,
    RunReport,
    Series,
    Span,
    read_metrics,
)
from sparsetrain.nn import inspect
from sparsetrain.schedule import sparse_span

Metrics = dict[str, tuple[tuple[float, ...], tuple[float, ...]]]

_CURVES = (
    ("Loss", "", ("train/loss", "val/loss")),
    ("Accuracy", "", ("val/top1", "val/top5")),
    ("Flip rate", "", ("sparsity/flip_rate",)),
    ("Density", "", ("sparsity/density",)),
    ("Throughput", "images/s", ("perf/images_per_s",)),
    ("Choosing masks", "ms", ("perf/sparsify_ms",)),
    ("Model FLOPs utilization", "of the dense peak", ("perf/mfu",)),
    ("Learning rate", "", ("train/lr",)),
)


def report_of_run(
    config: DictConfig,
    trainer: pl.Trainer,
    module: pl.LightningModule,
    data: Any,
    notes: tuple[str, ...],
) -> RunReport:
    """Everything that report.html shows, from the run's metrics.csv, model and callbacks."""
    path = Path(config.run_dir) / "metrics.csv"
    metrics = read_metrics(path) if path.is_file() else {}  # a short run logs nothing
    sparsify = _find(trainer, SparsifyModel)
    return RunReport(
        title=f"{HydraConfig.get().runtime.choices['recipe']}: {config.model.name}",
        summary=_summary(trainer, module, data, metrics),
        notes=notes,
        curves=_curves(metrics, _spans(trainer, sparsify)),
        layers=_layers(sparsify, module),
        shares=str(sparsify.report.shares or "") if sparsify.report else "",
        masks=_masks(_find(trainer, MaskSnapshots), module),
        config_yaml=OmegaConf.to_yaml(config, resolve=True),
    )


def _summary(
    trainer: pl.Trainer, module: pl.LightningModule, data: Any, metrics: Metrics
) -> tuple[tuple[str, str], ...]:
    best, last = _find(trainer, ModelCheckpoint), _find(trainer, SaveLast)
    sparsify = _find(trainer, SparsifyModel)
    monitor = _find(trainer, SparsityMonitor)
    rows = [("data", data.name)]
    if "val/top1" in metrics:
        top1 = [100 * value for value in metrics["val/top1"][1]]
        rows.append(("top-1", f"{top1[-1]:.2f} % at the end, {max(top1):.2f} % at best"))
    rows.append(("density", _density(sparsify, module)))
    if monitor is not None and monitor.images_per_s is not None:
        rows.append(("throughput", f"{monitor.images_per_s:,.0f} images/s"))
    rows.append(("optimizer steps", f"{trainer.global_step:,}"))
    if best is not None:
        path = best.best_model_path
        rows.append(("best checkpoint", str(relative(path)) if path else "none: no validation ran"))
    if last is not None:
        path = "none" if last.step is None else str(relative(last.path))
        rows.append(("last checkpoint", path))
    return tuple(rows)


def _density(sparsify: SparsifyModel, module: pl.LightningModule) -> str:
    stats = inspect(module)
    if not stats:
        activations = sparsify.sparsity.activation is not None
        return "weights dense" + (", activations 2:4" if activations else "")
    total = sum(s.shape[0] * s.shape[1] for s in stats)
    density = sum(s.density * s.shape[0] * s.shape[1] for s in stats) / total
    words = f"{density:.3f} in {len(stats)} sparse layers"
    return words + (" (dense tail)" if sparsify.phase == "dense_tail" else "")


def _spans(trainer: pl.Trainer, sparsify: SparsifyModel) -> tuple[Span, ...]:
    """The phases up to where the run ended."""
    if sparsify.sparsity.dense:
        return ()
    total, end = int(trainer.estimated_stepping_batches), trainer.global_step
    start, stop = (min(step, end) for step in sparse_span(sparsify.sparsity.schedule, total))
    spans = (("dense warm-up", 0, start), ("sparse", start, stop), ("dense tail", stop, end))
    return tuple(Span(label, a, b) for label, a, b in spans if a < b)


def _curves(metrics: Metrics, spans: tuple[Span, ...]) -> tuple[Curve, ...]:
    curves = []
    for title, unit, keys in _CURVES:
        series = tuple(Series(key, *metrics[key]) for key in keys if key in metrics)
        if series:
            curves.append(Curve(title, unit, series, spans))
    prefix = "sparsity/kept_energy/"
    kept = tuple(
        Series(key.removeprefix(prefix).removeprefix("network_"), *metrics[key])
        for key in metrics
        if key.startswith(prefix)
    )
    if kept:
        curves.insert(min(4, len(curves)), Curve("Kept energy", "of Σ w²", kept, spans))
    return tuple(curves)


def _layers(sparsify: SparsifyModel, module: pl.LightningModule) -> tuple[LayerRow, ...]:
    assert sparsify.report is not None, "a finished run has been set up"
    stats = {s.name: s for s in inspect(module)}
    rows = []
    for layer in (*sparsify.report.converted, *sparsify.report.dense):
        numbers = stats.get(layer.name)
        rows.append(
            LayerRow(
                name=layer.name.removeprefix("network."),
                shape=layer.shape,
                runs=layer.runs,
                engine=layer.engine,
                density=numbers.density if numbers else None,
                kept_energy=numbers.kept_energy if numbers else None,
                flip_rate=numbers.flip_rate if numbers else None,
                reason=layer.reason,
            )
        )
    return tuple(rows)


def _masks(snapshots: MaskSnapshots | None, module: pl.LightningModule) -> tuple[MaskPair, ...]:
    if snapshots is None:
        return ()
    after = snapshots.now(module)
    return tuple(
        MaskPair(name.removeprefix("network."), before, after[name])
        for name, before in snapshots.before.items()
        if name in after
    )


def _find(trainer: pl.Trainer, kind: Any) -> Any:
    return next((c for c in trainer.callbacks if isinstance(c, kind)), None)  # type: ignore[attr-defined]
