"""What a sparse run logs about itself: density, flips, energy, throughput."""

from __future__ import annotations

import time
from collections.abc import Mapping, ValuesView
from dataclasses import replace
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from sparsetrain.lightning.callbacks.sparsify import SparsifyModel
from sparsetrain.nn import LayerStats, inspect
from sparsetrain.nn.flops import dense_peak_flops, training_flops_per_image
from sparsetrain.schedule import Phase


class SparsityMonitor(pl.Callback):
    """Log sparsity and throughput every `trainer.log_every_n_steps` optimizer steps.

    A batch is a tensor, or a list, tuple or dict of which the first tensor has its samples (images).

    sparsity/density, sparsity/kept_energy/<layer>, sparsity/kept_energy, sparsity/flip_rate (of
    the virtual masks in dense phases, 0 once masks are frozen; absent until masks have been
    chosen twice): once per choice of the masks, and at every logging step once they are frozen.
    perf/step_ms (wall time from one optimizer step to the next, data loading included),
    perf/images_per_s (all processes), perf/sparsify_ms (choosing the masks once), perf/mfu
    (dense-equivalent FLOPs over the dense peak of the GPU; absent where the peak is not known).
    """

    def __init__(self) -> None:
        self.images_per_s: float | None = None
        self.stats: list[LayerStats] = []
        self._flops: float | None = None
        self._masks_logged = -1
        self._phase_logged: Phase | None = None
        self._start: tuple[int, float] | None = None  # optimizer step, time
        self._images = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start, self._images = None, 0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        images = _first_tensor(batch)
        known = images is not None and dense_peak_flops(pl_module.device) is not None
        if self._flops is None and known and isinstance(batch, (list, tuple)):
            self._flops = training_flops_per_image(pl_module, batch[0])
        if self._start is None:
            self._start = trainer.global_step, time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        images = _first_tensor(batch)
        self._images += 0 if images is None else len(images) * trainer.world_size
        step = trainer.global_step
        if self._due(step, trainer.log_every_n_steps):  # pyright: ignore[reportAttributeAccessIssue]
            metrics = self._throughput(trainer, pl_module) | self._sparsity(trainer, pl_module)
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step=step - 1)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # A run shorter than the logging interval has its throughput from here.
        if self.images_per_s is None and self._start and trainer.global_step > self._start[0]:
            self._throughput(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Validation and checkpoints are not training time.
        self._start, self._images = None, 0

    def _due(self, step: int, every: int) -> bool:
        # 0 is Lightning's word for never.
        return every > 0 and step % every == 0 and self._start is not None and step > self._start[0]

    def _throughput(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, float]:
        assert self._start is not None
        first, start = self._start
        now, step = time.perf_counter(), trainer.global_step
        self.images_per_s = self._images / (now - start)
        metrics = {
            "perf/step_ms": 1000 * (now - start) / (step - first),
            "perf/images_per_s": self.images_per_s,
        }
        peak = dense_peak_flops(pl_module.device)
        if self._flops is not None and peak is not None:
            per_gpu = self.images_per_s / trainer.world_size
            metrics["perf/mfu"] = per_gpu * self._flops / peak
        self._start, self._images = (step, now), 0
        return metrics

    def _sparsity(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, float]:
        callbacks: list[pl.Callback] = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
        sparsify = next((c for c in callbacks if isinstance(c, SparsifyModel)), None)
        if sparsify is None:
            return {}
        chosen = sparsify.masks_step != self._masks_logged
        if not chosen and not sparsify.frozen and sparsify.phase == self._phase_logged:
            return {}
        self._masks_logged, self._phase_logged = sparsify.masks_step, sparsify.phase
        self.stats = inspect(pl_module)
        if not chosen:
            flip_rate = 0.0 if sparsify.frozen else None
            self.stats = [replace(stats, flip_rate=flip_rate) for stats in self.stats]
        return sparsity_metrics(
            self.stats, sparsify.sparsify_time.milliseconds() if chosen else None
        )


def _first_tensor(batch: Any) -> Tensor | None:
    """The first tensor with samples in a batch; None without one."""
    if isinstance(batch, Tensor):
        return batch if batch.ndim else None
    parts = batch.values() if isinstance(batch, Mapping) else batch
    found = map(_first_tensor, parts) if isinstance(parts, (list, tuple, ValuesView)) else ()
    return next((tensor for tensor in found if tensor is not None), None)


def sparsity_metrics(stats: list[LayerStats], sparsify_ms: float | None) -> dict[str, float]:
    """The `sparsity/` keys of one moment; layer names with `_` for `.`."""
    if not stats:
        return {}
    numel = [s.shape[0] * s.shape[1] for s in stats]
    total = sum(numel)
    metrics = {
        "sparsity/density": sum(s.density * n for s, n in zip(stats, numel, strict=True)) / total,
        "sparsity/kept_energy": sum(s.kept_energy for s in stats) / len(stats),
    }
    flips = [s.flip_rate * n for s, n in zip(stats, numel, strict=True) if s.flip_rate is not None]
    if len(flips) == len(stats):
        metrics["sparsity/flip_rate"] = sum(flips) / total
    for s in stats:
        metrics[f"sparsity/kept_energy/{s.name.replace('.', '_')}"] = s.kept_energy
    if sparsify_ms is not None:
        metrics["perf/sparsify_ms"] = sparsify_ms
    return metrics
