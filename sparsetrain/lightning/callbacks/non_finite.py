"""Stopping at the first number that is not finite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from sparsetrain.lightning.callbacks.where_non_finite import gradient_error, loss_error
from sparsetrain.lightning.flavour import Callback, each, pl
from sparsetrain.lightning.later import Later
from sparsetrain.nn.sharded import local

_WHOLE = each("strategies.SingleDeviceStrategy") + each("strategies.DDPStrategy")
_SHARDED = each("strategies.ModelParallelStrategy")


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

    With fused optimizers (of torch, on CUDA or a CPU, in one process, DDP or FSDP2) nothing waits
    for the device. A number that is not finite sets their `found_inf`, by which they skip that
    update and all that follow on the device. The numbers are read at the end of the next batch; the
    images of the batch before are kept until then. Numbers that are still unread are read before
    validation, at the end of an epoch, and before a checkpoint: a bad one raises, and the
    checkpoint is not written. Lightning writes some checkpoints without asking callbacks
    (`save_weights_only`, and `save_on_exception` after the error). They hold the weights from
    before the bad step, while step counters include the skipped updates. The search for the layer
    uses the model at that time: its weights are unchanged, but its masks may have been updated.
    With other optimizers the numbers are read at once, which synchronizes twice a step.

    DDP: gradients are averaged, so where one process has a loss that makes its gradients
    non-finite, all skip the update and raise in the same batch. Where only the loss of one is not
    finite, that one alone raises, and the launcher ends the others.

    FSDP2: losses, and norms of the shards of each gradient, are averaged over the processes, so
    that all skip the update and raise in the same batch. Together they look where a loss stopped
    being finite, each in its own images.
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
        if self._found is not None or _is_sharded(trainer):
            self._look(trainer, pl_module, self._of_all(trainer, [loss.detach()]))
        elif not torch.isfinite(loss):
            raise loss_error(trainer, pl_module, trainer.global_step, loss, self._batch)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        if _scaler(trainer) is not None:
            return
        if self._found is None and not _is_sharded(trainer):
            grads = {n: p.grad for n, p in pl_module.named_parameters() if p.grad is not None}
            if not torch.isfinite(torch.nn.utils.get_total_norm(grads.values())):
                bad = [name for name, grad in grads.items() if not torch.isfinite(grad).all()]
                raise gradient_error(trainer.global_step, bad)
            return
        # Not of the module: walking through it takes the host longer than the norms.
        held = [p for group in optimizer.param_groups for p in group["params"]]
        held = [p for p in held if p.grad is not None]
        if held:
            grads = [p.grad for p in held]
            if _is_sharded(trainer):
                grads = [local(grad) for grad in grads]
            norms = self._of_all(trainer, torch._foreach_norm(grads))  # pyright: ignore[reportPrivateImportUsage]
            total = torch.linalg.vector_norm(norms, keepdim=True)
            self._look(trainer, pl_module, torch.cat((norms, total)), held)

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

    def _of_all(self, trainer: pl.Trainer, numbers: Sequence[Tensor]) -> Tensor:
        """The numbers, one tensor. Where processes have parts of gradients, the means of theirs:
        not finite where one is not. The host waits for no device."""
        if not _is_sharded(trainer):
            return torch.stack(tuple(numbers))
        means = torch.stack(tuple(numbers)).float() / trainer.world_size
        dist.all_reduce(means)
        return means

    def _look(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        numbers: Tensor,
        parameters: Sequence[Tensor] = (),
    ) -> None:
        check = Check(trainer.global_step, self._place, self._batch, Later(numbers), parameters)
        self._unread.append(check)
        if self._found is None:
            self._read(trainer, pl_module)
        else:
            self._found.masked_fill_(~torch.isfinite(numbers[-1]), 1.0)

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
                raise loss_error(trainer, pl_module, check.step, numbers[-1], check.batch)
            norms = zip(check.parameters, numbers[:-1].tolist(), strict=True)
            bad = {id(p) for p, norm in norms if not math.isfinite(norm)}
            names = [name for name, p in pl_module.named_parameters() if id(p) in bad]
            raise gradient_error(check.step, names)

    def _release(self, trainer: pl.Trainer) -> None:
        if self._found is not None:
            for optimizer in trainer.optimizers:
                vars(optimizer).pop("found_inf", None)
        self._batch, self._place, self._found, self._unread = None, 0, None, []


def _is_sharded(trainer: pl.Trainer) -> bool:
    """Whether a process has a part of each gradient."""
    return isinstance(trainer.strategy, _SHARDED)


def _scaler(trainer: pl.Trainer) -> Any:
    return getattr(trainer.precision_plugin, "scaler", None)


def _skip_on_device(trainer: pl.Trainer, device: torch.device) -> bool:
    """Whether all optimizers skip their update where `found_inf` is 1, on every process alike."""
    known = isinstance(trainer.strategy, _WHOLE + _SHARDED)
    known = known and device.type in ("cpu", "cuda") and _scaler(trainer) is None
    return known and all(_is_fused(optimizer, device) for optimizer in trainer.optimizers)


def _is_fused(optimizer: Optimizer, device: torch.device) -> bool:
    # The mark is torch's own. Groups that a checkpoint brought may say otherwise, and rule.
    marked = getattr(optimizer, "_step_supports_amp_scaling", False)
    groups = optimizer.param_groups
    there = all(p.device == device for group in groups for p in group["params"])
    return marked and there and all(group.get("fused") for group in groups)
