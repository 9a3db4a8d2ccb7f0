"""Sparse training in a Lightning trainer: convert, attach, save the sparse state."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

from sparsetrain.lightning.configured import once_configured
from sparsetrain.lightning.flavour import Callback, pl
from sparsetrain.lightning.steps import check_end, share_done, total_steps
from sparsetrain.lightning.stopwatch import Stopwatch
from sparsetrain.lightning.trained_state import TrainedState
from sparsetrain.nn import Attached, Report, Sparsity, attach, phased_layers, sparsify
from sparsetrain.products import Engine
from sparsetrain.recipe import resolve_sparsity
from sparsetrain.schedule import Phase


class SparsifyModel(Callback):
    """Make the trainer's model sparse, and attach its optimizers.

        trainer = pl.Trainer(callbacks=[SparsifyModel(recipe="vit_b_24")])

    Layers are swapped in `setup`, or right after the module's own `configure_model`: before
    optimizers are made and before any wrapping. Phases and masks follow the steps of the optimizers
    that hold the weights (`attached`, see `sparsetrain.attach`). They are part of the trainer's
    checkpoints, so a resumed run goes on exactly, and a checkpoint is validated as it was trained.

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
        self.engine: Engine | Literal["auto"] = engine
        self.tokens = tokens
        self.report: Report | None = None
        self.attached: Attached | None = None
        self.sparsify_time = Stopwatch()
        self._state = TrainedState()
        self._optimizers: list[Any] = []

    @property
    def phase(self) -> Phase | None:
        """The phase of the sparse layers, None before training."""
        phase = None if self.attached is None else self.attached.phase
        return None if phase is None else phase.name

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self.report is None or not phased_layers(pl_module):
            self.attached = None
            self._state.forget()
            once_configured(pl_module, partial(self._convert, trainer, pl_module))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._state.restore(trainer, pl_module)
        self._attach(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.optimizers != self._optimizers:  # made anew
            self._attach(trainer, pl_module)
        if self.attached is not None:
            self.attached.progress(share_done(trainer))

    def on_train_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        exception: BaseException | None = None,
    ) -> None:
        self._optimizers = []
        if self.attached is not None:
            self.attached.detach()
            self._state.end(self.attached)

    on_exception = on_train_end

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._state.restore(trainer, pl_module)

    on_test_start = on_predict_start = on_validation_start

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint.update(self._state.write(pl_module, self.attached))

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._state.read(checkpoint, trainer.ckpt_path)

    def _convert(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        on_cpu = trainer.strategy.root_device.type == "cpu"
        self.report = sparsify(
            pl_module, self.sparsity, self.engine, tokens=self.tokens, on_cpu=on_cpu
        )
        self._state.restore_end(pl_module)

    def _attach(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if phased_layers(pl_module):
            check_end(trainer, self.sparsity.schedule)
            total = total_steps(trainer)
            if trainer.global_step:  # `fit` was called again
                for phase in {layer.phase for layer in phased_layers(pl_module)}:
                    phase.loaded |= phase.step > 0
            self.attached = attach(pl_module, trainer.optimizers, total_steps=total)
            self.attached.masks.timer = lambda: self.sparsify_time.measure(pl_module.device)
        self._optimizers = list(trainer.optimizers)
