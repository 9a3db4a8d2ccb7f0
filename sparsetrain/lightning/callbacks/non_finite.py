"""Stopping at the first number that is not finite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsetrain.errors import NonFiniteError
from sparsetrain.lightning.flavour import Callback, each, package_of, pl
from sparsetrain.lightning.later import Later
from sparsetrain.nn import SparseMlp, SquaredReLU

_WHOLE = each("strategies.SingleDeviceStrategy") + each("strategies.DDPStrategy")


class Check(NamedTuple):
    """Numbers of a batch that are still to be looked at."""

    step: int  # optimizer step
    place: int  # of the batch in this run
    batch: Any
    numbers: Later  # the loss [1], or the norm of each gradient and of all [len(parameters) + 1]
    parameters: Sequence[Tensor]  # whose gradients they are; none for a loss


class StopOnNonFinite(Callback):
    """Raise before a non-finite loss or gradient reaches the weights, naming step and layer.

    Batches begin with the images. Gradients are left alone under a GradScaler, which skips such
    steps itself.

    With fused optimizers (of torch, on CUDA or a CPU, in one process or DDP) nothing waits for the
    device. What is not finite sets their `found_inf`, by which they skip that update and all that
    follow on the device; the numbers are read at the end of the next batch, whose predecessor's
    images are kept until then. Unread ones are read before validation, at the end of an epoch,
    and before a checkpoint is saved, of which there is none then. (What Lightning writes without
    asking callbacks, `save_weights_only`, and after the exception, `save_on_exception`, has the
    weights of before; what counts steps counts skipped ones.) The layer is sought in the model as
    it is by then: the same weights, but masks may have been chosen anew.
    With other optimizers the numbers are read at once, which synchronizes twice a step.

    DDP: gradients are averaged, so where one process has a loss that makes its gradients
    non-finite, all skip the update and raise in the same batch. Where only the loss of one is not
    finite, that one alone raises, and the launcher ends the others.
    """

    def __init__(self) -> None:
        self._batch: Any = None
        self._place = 0
        self._found: Tensor | None = None  # float32, 1 after the first number that is not finite
        self._unread: list[Check] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._release(trainer)
        if _skip_on_device(trainer, pl_module.device):
            self._found = torch.zeros((), dtype=torch.float32, device=pl_module.device)
            for optimizer in trainer.optimizers:
                optimizer.found_inf = self._found  # pyright: ignore[reportAttributeAccessIssue]

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._batch = batch
        self._place += 1

    def on_before_backward(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor
    ) -> None:
        if self._found is not None:
            self._look_later(trainer, loss.detach().reshape(1))
        elif not torch.isfinite(loss):
            raise _loss_error(trainer, pl_module, trainer.global_step, loss, self._batch)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        if _scaler(trainer) is not None:
            return
        if self._found is None:
            grads = {n: p.grad for n, p in pl_module.named_parameters() if p.grad is not None}
            if not torch.isfinite(torch.nn.utils.get_total_norm(grads.values())):
                bad = [name for name, grad in grads.items() if not torch.isfinite(grad).all()]
                raise _gradient_error(trainer.global_step, bad)
            return
        # Not of the module: walking through it takes the host longer than the norms.
        held = [p for group in optimizer.param_groups for p in group["params"]]
        held = [p for p in held if p.grad is not None]
        if held:
            norms = torch._foreach_norm([p.grad for p in held])  # pyright: ignore[reportPrivateImportUsage]
            norms = torch.stack(norms)
            total = torch.linalg.vector_norm(norms, keepdim=True)
            self._look_later(trainer, torch.cat((norms, total)), held)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self._read(trainer, pl_module, before=self._place)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._read(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._read(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._read(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._release(trainer)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self._release(trainer)

    def _look_later(
        self, trainer: pl.Trainer, numbers: Tensor, parameters: Sequence[Tensor] = ()
    ) -> None:
        assert self._found is not None
        self._found.masked_fill_(~torch.isfinite(numbers[-1]), 1.0)
        check = Check(trainer.global_step, self._place, self._batch, Later(numbers), parameters)
        self._unread.append(check)

    def _read(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, before: int | None = None
    ) -> None:
        """Raise for the first bad one of what is unread: of batches before that place, or all."""
        while self._unread and (before is None or self._unread[0].place < before):
            check = self._unread.pop(0)
            numbers = check.numbers.read()
            if math.isfinite(numbers[-1]):
                continue
            if not check.parameters:
                raise _loss_error(trainer, pl_module, check.step, numbers[-1], check.batch)
            norms = zip(check.parameters, numbers[:-1].tolist(), strict=True)
            bad = {id(p) for p, norm in norms if not math.isfinite(norm)}
            names = [name for name, p in pl_module.named_parameters() if id(p) in bad]
            raise _gradient_error(check.step, names)

    def _release(self, trainer: pl.Trainer) -> None:
        if self._found is not None:
            for optimizer in trainer.optimizers:
                vars(optimizer).pop("found_inf", None)
        self._batch, self._place, self._found, self._unread = None, 0, None, []


def _scaler(trainer: pl.Trainer) -> Any:
    return getattr(trainer.precision_plugin, "scaler", None)


def _skip_on_device(trainer: pl.Trainer, device: torch.device) -> bool:
    """Whether all optimizers skip their update where `found_inf` is 1, on every process alike."""
    whole = isinstance(trainer.strategy, _WHOLE)
    known = whole and device.type in ("cpu", "cuda") and _scaler(trainer) is None
    return known and all(_is_fused(optimizer, device) for optimizer in trainer.optimizers)


def _is_fused(optimizer: Optimizer, device: torch.device) -> bool:
    # The mark is torch's own. Groups that a checkpoint brought may say otherwise, and rule.
    marked = getattr(optimizer, "_step_supports_amp_scaling", False)
    groups = optimizer.param_groups
    there = all(p.device == device for group in groups for p in group["params"])
    return marked and there and all(group.get("fused") for group in groups)


def _loss_error(
    trainer: pl.Trainer, pl_module: pl.LightningModule, step: int, loss: Tensor, batch: Any
) -> NonFiniteError:
    if trainer.validating:
        pl_module.train()
    images = batch[0] if isinstance(batch, (list, tuple)) and batch else None
    no_forward = package_of(pl_module).LightningModule.forward
    if not isinstance(images, Tensor) or type(pl_module).forward is no_forward:
        where = "where was not sought: its batch does not begin with images, or it has no `forward`"
    else:
        with trainer.precision_plugin.forward_context():
            where = first_non_finite(pl_module, images)
    return NonFiniteError(f"step {step}: loss is {loss.item()}; {where}")


def _gradient_error(step: int, bad: list[str]) -> NonFiniteError:
    return NonFiniteError(
        f"step {step}: the gradient of {bad[-1] if bad else 'all, summed,'} is "
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
            found.append(f"{name} ({type(layer).__name__}){_overflow(layer, output)}")

    # A hook on a child of an MLP that runs as one function would have it call its children.
    inside = {id(c) for m in module.modules() if isinstance(m, SparseMlp) for c in m.children()}
    handles = [
        layer.register_forward_hook(lambda m, _, out, name=name: look(name, m, out))
        for name, layer in module.named_modules()
        if id(layer) not in inside
    ]
    module(images)
    for handle in handles:
        handle.remove()
    if found:
        return f"first in the output of {found[0]}"
    return "in a second forward every layer's output is finite"


def _overflow(layer: nn.Module, output: Tensor) -> str:
    """What to do where squared ReLU, which float16 seldom holds, may have overflowed."""
    sparse = isinstance(layer, SparseMlp) and layer.method is not None
    if output.dtype != torch.float16 or not (sparse or isinstance(layer, SquaredReLU)):
        return ""
    return (
        "; float16 ends at 65504, which relu(z)² passes where z > 255: set "
        "trainer.precision=bf16-mixed"
    )
