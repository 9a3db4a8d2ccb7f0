"""Sparse training in a Lightning trainer: convert, drive phases and masks, save their state."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch.utils.hooks import RemovableHandle

from sparsetrain.autograd import Engine
from sparsetrain.file_format import CHECKPOINT_KEY, FORMAT, check_format
from sparsetrain.lightning.stopwatch import Stopwatch
from sparsetrain.nn import (
    AttachedDecay,
    Report,
    SparseLinear,
    SparseMlp,
    Sparsity,
    decay_pruned_weights,
    inspect,
    load_sparse_state,
    pack_weights,
    release_weights,
    set_sparse,
    sparse_state,
    sparsify,
    update_masks,
)
from sparsetrain.recipe import resolve_sparsity
from sparsetrain.schedule import Phase, Schedule, mask_due, phase


class SparsifyModel(pl.Callback):
    """Make the trainer's model 2:4 and drive it through its phases.

        trainer = pl.Trainer(callbacks=[SparsifyModel(recipe="vit_b_24")])

    Weights are packed once per optimizer step and once per evaluation: of all sparse layers in the
    module. What changes weights otherwise than by an optimizer of the trainer, as a teacher that
    follows by `.data`, calls `pack_weights` after.
    Layers are swapped in `setup`, or right after the module's own `configure_model`: before
    optimizers are made and before any wrapping. Phases and mask updates count optimizer steps
    (`trainer.global_step`). Masks and phase are part of the trainer's checkpoints, so a resumed
    run goes on exactly, and a validated checkpoint is validated as it was trained.

    Give `sparsity` or the name of a `recipe`; engine and tokens are those of `nn.sparsify`. After
    setup, `report` says what became of each layer. Raises ValueError where a schedule in fractions
    meets a run without an end; with `Trainer(detect_anomaly=True)`, naming the layers, where
    weights are NaN.
    """

    def __init__(
        self,
        sparsity: Sparsity | None = None,
        *,
        recipe: str | None = None,
        engine: Engine | Literal["auto"] = "auto",
        tokens: Mapping[str, int] | None = None,
    ) -> None:
        self.sparsity = resolve_sparsity(sparsity, recipe)
        self.tokens = tokens
        self.engine: Engine | Literal["auto"] = engine
        self.report: Report | None = None
        self.phase: Phase | None = None
        self.sparsify_time = Stopwatch()
        self.masks_step = -1  # optimizer step of the last mask update
        self.frozen = False  # no mask update is to come
        self._step = -1
        self._packed = False  # all weights, as they are now
        self._saved: dict[str, Any] | None = None
        self._settled = False  # what the checkpoint says, or does not say, is dealt with
        self._handles: list[AttachedDecay | RemovableHandle] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self.report is not None and _is_sparse(pl_module):
            # A second run with the same model starts its phases anew.
            self._step, self.phase = -1, None
            return
        self._forget()
        if is_overridden("configure_model", pl_module):
            configure: Callable[[], None] = pl_module.configure_model
            pl_module.configure_model = lambda: self._convert_after(configure, trainer, pl_module)
        else:
            self._convert(trainer, pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._restore(trainer, pl_module)
        if self.phase is None:
            # So that entering the sparse phase fixes β of S-STE from the weights as they are now,
            # loaded ones included.
            set_sparse(pl_module, False)
        self._release(pl_module)
        for optimizer in trainer.optimizers:
            self._handles.append(decay_pruned_weights(pl_module, optimizer))
            release = optimizer.register_step_post_hook(
                lambda *call: self._release(pl_module, keep_memory=True)
            )
            self._handles.append(release)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.sparsity.dense:
            return
        step = trainer.global_step
        if step != self._step:
            self._step = step
            schedule = self.sparsity.schedule
            total = _total_steps(trainer, schedule)
            self._enter(phase(schedule, step, total), pl_module)
            freeze_at = schedule.freeze_at
            self.frozen = freeze_at is not None and step >= round(freeze_at * total)
            if mask_due(schedule, step, total):
                self._update_masks(pl_module, step)
        self._pack(trainer, pl_module)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self._release(pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._release(pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._restore(trainer, pl_module)
        self._release(pl_module, keep_memory=True)

    def on_validation_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        # Here, because weight averaging puts its weights in after `on_validation_start`.
        self._pack(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._release(pl_module, keep_memory=True)

    on_test_start = on_predict_start = on_validation_start
    on_test_batch_start = on_predict_batch_start = on_validation_batch_start
    on_test_end = on_predict_end = on_validation_end

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[CHECKPOINT_KEY] = FORMAT
        checkpoint["sparsetrain_state"] = {
            "layers": sparse_state(pl_module),
            "phase": self.phase,
            "masks_step": self.masks_step,
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        check_format(checkpoint.get(CHECKPOINT_KEY), f"ckpt_path={trainer.ckpt_path}")
        # Applied when the loop starts: the model may still move to its device.
        self._saved, self._settled = checkpoint.get("sparsetrain_state"), False

    def _convert(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        on_cpu = trainer.strategy.root_device.type == "cpu"
        self.report = sparsify(
            pl_module, self.sparsity, self.engine, tokens=self.tokens, on_cpu=on_cpu
        )

    def _convert_after(
        self, configure: Callable[[], None], trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> None:
        configure()
        # The module's own method again: with ours it could not be pickled.
        del pl_module.configure_model
        self._convert(trainer, pl_module)

    def _forget(self) -> None:
        self.phase, self.masks_step, self.frozen = None, -1, False
        self._step, self._saved, self._settled = -1, None, False
        self._packed = False

    def _restore(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._saved is not None:
            load_sparse_state(pl_module, self._saved["layers"])
            self.phase, self.masks_step = self._saved["phase"], self._saved["masks_step"]
            self._saved, self._settled = None, True
        elif trainer.ckpt_path is not None and not self._settled and not self.sparsity.dense:
            self._settled = True
            warnings.warn(
                f"ckpt_path={trainer.ckpt_path} holds no masks and no phase (a dense run's, or "
                "saved with weights only): masks are chosen anew from its weights",
                stacklevel=2,
            )

    def _enter(self, phase: Phase, pl_module: pl.LightningModule) -> None:
        if phase != self.phase:
            set_sparse(pl_module, phase == "sparse")
            self.phase, self._packed = phase, False

    def _pack(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._packed and not self.sparsity.dense:
            with trainer.precision_plugin.forward_context():
                pack_weights(pl_module)
            self._packed = True

    def _release(self, pl_module: pl.LightningModule, keep_memory: bool = False) -> None:
        release_weights(pl_module, keep_memory)
        self._packed = False

    def _update_masks(self, pl_module: pl.LightningModule, step: int) -> None:
        if torch.is_anomaly_enabled():
            bad = [stats.name for stats in inspect(pl_module) if stats.nan]
            if bad:
                raise ValueError(f"step {step}: weights of {', '.join(bad)} hold NaN")
        with self.sparsify_time.measure(pl_module.device):
            update_masks(pl_module)
        self.masks_step, self._packed = step, False


def _is_sparse(module: pl.LightningModule) -> bool:
    return any(isinstance(m, (SparseLinear, SparseMlp)) for m in module.modules())


def _total_steps(trainer: pl.Trainer, schedule: Schedule) -> int:
    """Optimizer steps of the whole run; in an endless one a number it never reaches."""
    total = trainer.estimated_stepping_batches
    if math.isfinite(total):
        return int(total)
    if schedule.dense_warmup or schedule.dense_tail or schedule.freeze_at:
        raise ValueError(
            f"trainer.max_epochs={trainer.max_epochs}, max_steps={trainer.max_steps}: the run has "
            "no end that dense_warmup, dense_tail and freeze_at of the schedule could be a "
            "fraction of; set one of the two"
        )
    return sys.maxsize
