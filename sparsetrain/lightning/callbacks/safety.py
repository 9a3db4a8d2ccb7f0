"""Stopping well: at the first non-finite number, and when asked to."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsetrain.errors import NonFiniteError


class StopOnNonFinite(pl.Callback):
    """Raise before a non-finite loss or gradient reaches the weights, naming step and layer.

    Batches begin with the images. Costs two synchronizations a step. Gradients are left alone
    under a GradScaler, which skips such steps itself.
    """

    def __init__(self) -> None:
        self._batch: Any = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._batch = batch

    def on_before_backward(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor
    ) -> None:
        if not torch.isfinite(loss):
            with trainer.precision_plugin.forward_context():
                where = first_non_finite(pl_module, self._batch[0])
            raise NonFiniteError(f"step {trainer.global_step}: loss is {loss.item()}; {where}")

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            return
        grads = {n: p.grad for n, p in pl_module.named_parameters() if p.grad is not None}
        if torch.isfinite(torch.nn.utils.get_total_norm(grads.values())):
            return
        bad = [name for name, grad in grads.items() if not torch.isfinite(grad).all()]
        raise NonFiniteError(
            f"step {trainer.global_step}: the gradient of {bad[-1] if bad else 'all, summed,'} is "
            f"not finite ({len(bad)} parameters in all); lower the learning rate, or clip "
            "gradients with trainer.gradient_clip_val"
        )


@torch.no_grad()
def first_non_finite(module: pl.LightningModule, images: Tensor) -> str:
    """Where a forward of `images` first stops being finite, in words."""
    if not torch.isfinite(images).all():
        return "the images already hold non-finite values"
    for name, parameter in module.named_parameters():
        if not torch.isfinite(parameter).all():
            return f"the weights {name} are not finite"
    found: list[str] = []

    def look(name: str, layer: nn.Module, output: Any) -> None:
        if not found and isinstance(output, Tensor) and not torch.isfinite(output).all():
            found.append(f"{name} ({type(layer).__name__})")

    handles = [
        layer.register_forward_hook(lambda m, _, out, name=name: look(name, m, out))
        for name, layer in module.named_modules()
    ]
    module(images)
    for handle in handles:
        handle.remove()
    if found:
        return f"first in the output of {found[0]}"
    return "in a second forward every layer's output is finite"


class SaveOnInterrupt(Checkpoint):
    """On Ctrl-C: finish the optimizer step, save `interrupted.ckpt`, stop. A second Ctrl-C stops
    at once.

    A `Checkpoint`, because Lightning runs those last: what other callbacks do at the end of a
    batch (averaging the weights) is in the file.
    """

    def __init__(self, folder: str) -> None:
        self.path = Path(folder) / "interrupted.ckpt"
        self._previous: Any = None
        self._asked = False
        self._step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._asked, self._step = False, trainer.global_step
        self._previous = signal.signal(signal.SIGINT, self._ask)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if trainer.global_step == self._step:
            # Between the batches of one step: their gradients are in no checkpoint.
            return
        self._step = trainer.global_step
        if trainer.strategy.reduce_boolean_decision(self._asked, all=False):
            trainer.save_checkpoint(self.path)
            raise KeyboardInterrupt

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._release()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self._release()

    def _ask(self, signum: int, frame: Any) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True

    def _release(self) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None
