"""Sparse training in a Lightning trainer: convert, attach, save the sparse state."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

from sparsetrain.file_format import CHECKPOINT_KEY, FORMAT, check_format
from sparsetrain.lightning.flavour import Callback, package_of, pl
from sparsetrain.lightning.spawned import EndPhase
from sparsetrain.lightning.steps import check_end, share_done, total_steps
from sparsetrain.lightning.stopwatch import Stopwatch
from sparsetrain.nn import (
    Attached,
    Report,
    Sparsity,
    attach,
    load_sparse_state,
    phased_layers,
    sparse_state,
    sparsify,
)
from sparsetrain.plain import plain
from sparsetrain.products import Engine
from sparsetrain.recipe import resolve_sparsity
from sparsetrain.schedule import Phase
from sparsetrain.upgrade import upgraded_layers


class SparsifyModel(Callback):
    """Make the trainer's model sparse, and attach its optimizers.

        trainer = pl.Trainer(callbacks=[SparsifyModel(recipe="vit_b_24")])

    Layers are swapped in `setup`, or right after the module's own `configure_model`: before
    optimizers are made and before any wrapping. Phases and masks follow the steps of the optimizers
    that hold the weights (`sparsetrain.attach`). They are part of the trainer's checkpoints, so a
    resumed run goes on exactly, and a validated checkpoint is validated as it was trained.

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
        self.attached: Attached | None = None
        self.sparsify_time = Stopwatch()
        self._ended = EndPhase()
        self._optimizers: list[Any] = []
        self._saved: dict[str, Any] | None = None
        self._settled = False  # what the checkpoint says, or does not say, is dealt with

    @property
    def phase(self) -> Phase | None:
        """The phase of the sparse layers, None before training."""
        phase = None if self.attached is None else self.attached.phase
        return None if phase is None else phase.name

    @property
    def masks_step(self) -> int:
        """The optimizer step before which masks were chosen last, -1 without one."""
        phase = None if self.attached is None else self.attached.phase
        return -1 if phase is None else phase.masks_step

    @property
    def frozen(self) -> bool:
        """Whether masks stay as they are from now on."""
        phase = None if self.attached is None else self.attached.phase
        return phase is not None and phase.frozen

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self.report is not None and phased_layers(pl_module):
            return
        self.attached, self._saved, self._settled = None, None, False
        helpers = package_of(pl_module).utilities.model_helpers
        if helpers.is_overridden("configure_model", pl_module):
            configure: Callable[[], None] = pl_module.configure_model
            pl_module.configure_model = lambda: self._convert_after(configure, trainer, pl_module)
        else:
            self._convert(trainer, pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._restore(trainer, pl_module)
        self._attach(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.optimizers != self._optimizers:  # made anew
            self._attach(trainer, pl_module)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if self.attached is not None and not pl_module.automatic_optimization:
            self.attached.progress(share_done(trainer))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._optimizers = []
        if self.attached is not None:
            self.attached.detach()
            if self.attached.phase is not None:
                self._ended.write(self.attached.phase.trained)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self.on_train_end(trainer, pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._restore(trainer, pl_module)

    on_test_start = on_predict_start = on_validation_start

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[CHECKPOINT_KEY] = FORMAT
        phase = None if self.attached is None else self.attached.phase
        checkpoint["sparsetrain_state"] = {
            "layers": sparse_state(pl_module),
            "phase": None if phase is None else phase.trained,
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        where = f"ckpt_path={trainer.ckpt_path}"
        check_format(checkpoint.get(CHECKPOINT_KEY), where)
        # Applied when the loop starts: the model may still move to its device.
        self._saved, self._settled = plain(checkpoint.get("sparsetrain_state"), where), False

    def _convert(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        on_cpu = trainer.strategy.root_device.type == "cpu"
        self.report = sparsify(
            pl_module, self.sparsity, self.engine, tokens=self.tokens, on_cpu=on_cpu
        )
        if (ended := self._ended.read()) is not None:  # trained in processes that are no more
            for phase in {layer.phase for layer in phased_layers(pl_module)}:
                phase.name = phase.trained = ended

    def _convert_after(
        self, configure: Callable[[], None], trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> None:
        configure()
        # The module's own method again: with ours it could not be pickled.
        del pl_module.configure_model
        self._convert(trainer, pl_module)

    def _attach(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.sparsity.dense:
            return
        check_end(trainer, self.sparsity.schedule)
        total = total_steps(trainer)
        self.attached = attach(pl_module, trainer.optimizers, total_steps=total)
        self.attached.timer = lambda: self.sparsify_time.measure(pl_module.device)
        self._optimizers = list(trainer.optimizers)

    def _restore(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._saved is not None:
            load_sparse_state(pl_module, upgraded_layers(self._saved, trainer.global_step))
            self._saved, self._settled = None, True
        elif trainer.ckpt_path is not None and not self._settled and not self.sparsity.dense:
            self._settled = True
            warnings.warn(
                f"ckpt_path={trainer.ckpt_path} holds no masks and no phase (a dense run's, or "
                "saved with weights only): masks are chosen anew from its weights",
                stacklevel=2,
            )
