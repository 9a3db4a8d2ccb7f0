"""Sparse training in a Lightning trainer: convert, drive phases and masks, save their state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch.utils.hooks import RemovableHandle

from sparsetrain.autograd import Engine
from sparsetrain.lightning.stopwatch import Stopwatch
from sparsetrain.nn import (
    Report,
    Sparsity,
    decay_pruned_weights,
    inspect,
    load_sparse_state,
    set_sparse,
    sparse_state,
    sparsify,
    update_masks,
)
from sparsetrain.recipe import resolve_sparsity
from sparsetrain.schedule import Phase, mask_due, phase


class SparsifyModel(pl.Callback):
    """Make the trainer's model 2:4 and drive it through its phases.

        trainer = pl.Trainer(callbacks=[SparsifyModel(recipe="vit_b_24")])

    Layers are swapped in `setup`, or right after the module's own `configure_model`: before
    optimizers are made and before any wrapping. Phases and mask updates count optimizer steps
    (`trainer.global_step`). Masks and phase are part of the trainer's checkpoints, so a resumed
    run goes on exactly.

    Give `sparsity` or the name of a `recipe`. After setup, `report` says what became of each
    layer.
    """

    def __init__(
        self,
        sparsity: Sparsity | None = None,
        *,
        recipe: str | None = None,
        engine: Engine | str = "auto",
    ) -> None:
        self.sparsity = resolve_sparsity(sparsity, recipe)
        self.engine: Any = engine
        self.report: Report | None = None
        self.phase: Phase | None = None
        self.sparsify_time = Stopwatch()
        self.masks_step = -1  # optimizer step of the last mask update
        self._step = -1
        self._saved: dict[str, Any] | None = None
        self._handles: list[RemovableHandle] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self.report is not None:
            return
        if is_overridden("configure_model", pl_module):
            configure: Callable[[], None] = pl_module.configure_model
            pl_module.configure_model = lambda: self._convert_after(configure, pl_module)
        else:
            self._convert(pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._restore(pl_module)
        self._handles = [decay_pruned_weights(pl_module, o) for o in trainer.optimizers]

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step == self._step or self.sparsity.dense:
            return
        self._step = step
        total = int(min(trainer.estimated_stepping_batches, 2**62))
        self._enter(phase(self.sparsity.schedule, step, total), pl_module)
        if mask_due(self.sparsity.schedule, step, total):
            self._update_masks(pl_module, step)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._restore_for_evaluation(trainer, pl_module)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._restore_for_evaluation(trainer, pl_module)

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._restore_for_evaluation(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["sparsetrain_state"] = {
            "layers": sparse_state(pl_module),
            "phase": self.phase,
            "masks_step": self.masks_step,
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # Applied when the loop starts: the model may still move to its device.
        self._saved = checkpoint.get("sparsetrain_state")

    def _convert(self, pl_module: pl.LightningModule) -> None:
        self.report = sparsify(pl_module, self.sparsity, self.engine)

    def _convert_after(
        self, configure: Callable[[], None], pl_module: pl.LightningModule
    ) -> None:
        configure()
        if self.report is None:
            self._convert(pl_module)

    def _restore(self, pl_module: pl.LightningModule) -> None:
        if self._saved is None:
            return
        load_sparse_state(pl_module, self._saved["layers"])
        self.phase, self.masks_step = self._saved["phase"], self._saved["masks_step"]
        self._saved = None

    def _restore_for_evaluation(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Lightning gives callbacks their checkpoint for fitting only; sanity checks come before
        # on_train_start.
        if trainer.state.fn != TrainerFn.FITTING and trainer.ckpt_path is not None:
            checkpoint = torch.load(trainer.ckpt_path, map_location="cpu", weights_only=False)
            self._saved = checkpoint.get("sparsetrain_state")
        self._restore(pl_module)

    def _enter(self, phase: Phase, pl_module: pl.LightningModule) -> None:
        if phase != self.phase:
            set_sparse(pl_module, phase == "sparse")
            self.phase = phase

    def _update_masks(self, pl_module: pl.LightningModule, step: int) -> None:
        if torch.is_anomaly_enabled():
            bad = [stats.name for stats in inspect(pl_module) if stats.nan]
            if bad:
                raise ValueError(f"step {step}: weights of {', '.join(bad)} hold NaN")
        with self.sparsify_time.measure(pl_module.device):
            update_masks(pl_module)
        self.masks_step = step
