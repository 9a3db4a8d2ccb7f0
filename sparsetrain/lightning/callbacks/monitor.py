"""What a sparse run logs about itself: density, flips, energy, throughput, time, memory."""

from __future__ import annotations

import time
from collections.abc import Mapping, ValuesView
from dataclasses import replace
from typing import Any, get_args

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from sparsetrain.lightning.callbacks.sparsify import SparsifyModel
from sparsetrain.lightning.flavour import Callback, pl
from sparsetrain.lightning.memory import forget_peak, peak_memory_gib
from sparsetrain.nn import Attached, LayerStats, inspect
from sparsetrain.nn.flops import dense_peak_flops, training_flops_per_image
from sparsetrain.schedule import Phase


class SparsityMonitor(Callback):
    """Log sparsity and throughput every `trainer.log_every_n_steps` optimizer steps.

    A batch is a tensor, or a list, tuple or dict whose first tensor has its samples (images).

    sparsity/density, sparsity/kept_energy/<layer>, sparsity/kept_energy, sparsity/flip_rate/<layer>
    and sparsity/flip_rate (of the virtual masks in dense phases, 0 once masks are frozen; absent
    until masks have been chosen twice): once per choice of the masks, and at every logging step
    once they are frozen.
    sparsity/phase: of the step, by its place in `sparsetrain.schedule.Phase`; absent in dense runs.
    train/grad_norm: of all gradients together, before they are clipped.
    perf/step_ms (wall time from one optimizer step to the next, data loading included),
    perf/images_per_s (all processes), perf/sparsify_ms (choosing the masks once), perf/mfu
    (dense-equivalent FLOPs over the dense peak of the GPU; absent where the peak is not known).

    After each validation too: perf/elapsed_s (since training began, validation included; a resumed
    run counts on from its checkpoint) and perf/memory_gib (peak of the first process, as
    `peak_memory_gib` says).
    """

    def __init__(self) -> None:
        self.images_per_s: float | None = None
        self.stats: list[LayerStats] = []
        self._flops: float | None = None
        self._masks_logged = -1
        self._phase_logged: Phase | None = None
        self._start: tuple[int, float] | None = None  # optimizer step, time
        self._images = 0
        self._before: dict[str, float] | None = None  # sparsity of the step that is trained
        self._chosen = False  # its masks were chosen for it
        self._grad_norm: Tensor | None = None  # of the step that is trained
        self._elapsed = 0.0  # seconds of the runs that this one goes on from
        self._began: float | None = None  # when this one did

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start, self._images, self._before = None, 0, None
        self._grad_norm, self._began = None, time.perf_counter()
        forget_peak(pl_module.device)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        images = first_tensor(batch)
        known = images is not None and dense_peak_flops(pl_module.device) is not None
        if self._flops is None and known and isinstance(batch, (list, tuple)):
            self._flops = training_flops_per_image(pl_module, batch[0])
        if self._start is None:
            self._start = trainer.global_step, time.perf_counter()
        every: int = trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]
        if (attached := _attached(trainer)) is not None:
            # What is logged of a step is what its masks differ in from those of the one before. A
            # loop of its own may make several steps of a batch: which are logged is not known here.
            loop_of_its_own = not pl_module.automatic_optimization
            due = self._due(trainer.global_step + 2, every)
            attached.masks.counts_flips = every > 0 and (due or loop_of_its_own)
        if self._before is None and self._due(trainer.global_step + 1, every):
            # The optimizer's step ends with the masks and the phase of the next one.
            self._before = self._sparsity(trainer, pl_module)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        if self._due(trainer.global_step + 1, trainer.log_every_n_steps):  # pyright: ignore[reportAttributeAccessIssue]
            grads = [p.grad for p in pl_module.parameters() if p.grad is not None]
            self._grad_norm = torch.nn.utils.get_total_norm(grads)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        images = first_tensor(batch)
        self._images += 0 if images is None else len(images) * trainer.world_size
        step = trainer.global_step
        if self._due(step, trainer.log_every_n_steps):  # pyright: ignore[reportAttributeAccessIssue]
            sparsity = self._before
            if sparsity is None:  # a loop of its own that made several steps of the batch
                sparsity = self._sparsity(trainer, pl_module)
            self._before = None
            gradients = self._gradients()  # waits for the GPU, so that the steps timed are done
            metrics = self._throughput(trainer, pl_module) | sparsity | self._choice(trainer)
            _log(trainer, metrics | gradients | self._usage(pl_module))

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # A run shorter than the logging interval has its throughput from here.
        if self.images_per_s is None and self._start and trainer.global_step > self._start[0]:
            self._throughput(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Validation and checkpoints are not training time.
        self._start, self._images = None, 0
        if self._began is not None and trainer.global_step and not trainer.sanity_checking:
            _log(trainer, self._usage(pl_module))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._elapsed, self._began = self.elapsed_s, None

    def state_dict(self) -> dict[str, Any]:
        return {"elapsed_s": self.elapsed_s}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._elapsed = state_dict["elapsed_s"]

    @property
    def elapsed_s(self) -> float:
        """Seconds since training began, of the runs that this one goes on from too."""
        now = time.perf_counter()
        return self._elapsed + (0.0 if self._began is None else now - self._began)

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
        attached = _attached(trainer)
        at = None if attached is None else attached.phase
        if at is None:
            return {}
        phase = {"sparsity/phase": float(get_args(Phase).index(at.name))}
        self._chosen = chosen = at.masks_step != self._masks_logged
        if not chosen and not at.frozen and at.name == self._phase_logged:
            return phase
        self._masks_logged, self._phase_logged = at.masks_step, at.name
        flip_rate = 0.0 if at.frozen and at.masks_step < at.step else None  # of nothing new
        self.stats = [
            stats if chosen and stats.flip_rate is not None else replace(stats, flip_rate=flip_rate)
            for stats in inspect(pl_module)
        ]
        return phase | sparsity_metrics(self.stats)

    def _gradients(self) -> dict[str, float]:
        norm, self._grad_norm = self._grad_norm, None
        if norm is None:
            return {}
        return {"train/grad_norm": float(norm.full_tensor() if isinstance(norm, DTensor) else norm)}

    def _usage(self, pl_module: pl.LightningModule) -> dict[str, float]:
        return {
            "perf/elapsed_s": self.elapsed_s,
            "perf/memory_gib": peak_memory_gib(pl_module.device),
        }

    def _choice(self, trainer: pl.Trainer) -> dict[str, float]:
        sparsify = _sparsify_of(trainer)
        took = None if sparsify is None else sparsify.sparsify_time.milliseconds()
        return {} if took is None or not self._chosen else {"perf/sparsify_ms": took}


def _log(trainer: pl.Trainer, metrics: dict[str, float]) -> None:
    for logger in trainer.loggers:
        logger.log_metrics(metrics, step=trainer.global_step - 1)


def _sparsify_of(trainer: pl.Trainer) -> SparsifyModel | None:
    callbacks: list[Callback] = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
    return next((c for c in callbacks if isinstance(c, SparsifyModel)), None)


def _attached(trainer: pl.Trainer) -> Attached | None:
    sparsify = _sparsify_of(trainer)
    return None if sparsify is None else sparsify.attached


def first_tensor(batch: Any) -> Tensor | None:
    """The first tensor with samples in a batch; None without one."""
    if isinstance(batch, Tensor):
        return batch if batch.ndim else None
    parts = batch.values() if isinstance(batch, Mapping) else batch
    found = map(first_tensor, parts) if isinstance(parts, (list, tuple, ValuesView)) else ()
    return next((tensor for tensor in found if tensor is not None), None)


def sparsity_metrics(stats: list[LayerStats]) -> dict[str, float]:
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
        layer = s.name.replace(".", "_")
        metrics[f"sparsity/kept_energy/{layer}"] = s.kept_energy
        if s.flip_rate is not None:
            metrics[f"sparsity/flip_rate/{layer}"] = s.flip_rate
    return metrics
