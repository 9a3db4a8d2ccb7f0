"""torch.compile for training steps; with `compile=auto` it is tried before it is trusted."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import nn

from sparsetrain.lightning.callbacks.sparsify import SparsifyModel
from sparsetrain.lightning.flavour import Callback, each, pl


def cache_sparse_graphs() -> None:
    """Have torch.compile keep graphs of sparse layers on disk too, for the next process: those with
    autograd functions it leaves out by default, and traces their backward again."""
    from torch._functorch import config

    name = "autograd_cache_allow_custom_autograd_functions"
    if hasattr(config, name):
        setattr(config, name, True)


class EagerValidation(Callback):
    """Validate `pl_module.network` eager where it trains compiled: compiling it once more, and
    again for a smaller last batch, takes about as long as compiling the training step."""

    def __init__(self) -> None:
        self._call: Any = None  # the compiled call, while validation runs without it

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        network: Any = pl_module.network
        self._call, network._compiled_call_impl = network._compiled_call_impl, None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._call is not None:
            network: Any = pl_module.network
            network._compiled_call_impl, self._call = self._call, None

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self.on_validation_end(trainer, pl_module)


class CompileWhereItWorks(EagerValidation):
    """Compile `pl_module.network` for training on CUDA, and say so in one line; elsewhere nothing.

    In the first step, and in the first of each phase, a forward and a backward of the batch are run
    compiled before the step itself. They leave no trace: no gradients, and the random numbers are
    put back. Where compiling fails there, the run goes on eager and says why; any other error is
    raised as it is.

    tell: prints a line. Give this callback after `SparsifyModel`.
    """

    def __init__(self, tell: Any = print) -> None:
        super().__init__()
        self.tell = pl.utilities.rank_zero_only(tell)  # pyright: ignore[reportAttributeAccessIssue]
        self.compiled = False
        self._tried: set[str | None] = set()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._tried = set()
        network, reason = pl_module.network, why_eager(trainer)
        assert isinstance(network, nn.Module)
        self.compiled = reason is None
        if self.compiled:
            network.compile()
            self.tell("compile=auto: training steps run under torch.compile")
        elif trainer.strategy.root_device.type == "cuda":
            self.tell(f"compile=auto: training steps run eager, because {reason}")

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        phase = _phase(trainer)
        if not self.compiled or phase in self._tried:
            return
        self._tried.add(phase)
        network: Any = pl_module.network
        error = try_compiled(network, batch[0], trainer)
        if error is not None:
            network._compiled_call_impl = None
            self.compiled = False
            self.tell(f"compile=auto: training steps run eager, because compiling failed: {error}")


def why_eager(trainer: pl.Trainer) -> str | None:
    """Why a run is not compiled before anything is tried; None if it is."""
    if trainer.strategy.root_device.type != "cuda":
        return "the device is no GPU"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    known = *each("strategies.SingleDeviceStrategy"), *each("strategies.DDPStrategy")
    if not isinstance(trainer.strategy, known):
        name = type(trainer.strategy).__name__
        return f"it is not tried under {name}; compile=true asks for it"
    return None


def try_compiled(network: nn.Module, images: torch.Tensor, trainer: pl.Trainer) -> str | None:
    """Run a compiled forward and backward; what the error says if compiling fails."""
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor.exc import InductorError

    weights = [weight for weight in network.parameters() if weight.requires_grad]
    devices = [images.device] if images.device.type == "cuda" else []
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    try:
        # The first sparse step itself is watched without compiled code.
        with (
            torch.compiler.set_stance("default"),
            torch.random.fork_rng(devices),
            trainer.precision_plugin.forward_context(),
        ):
            loss = network(images).float().square().mean()
        # Not `backward`: gradients stay as they are, and DDP does not wait for other processes.
        torch.autograd.grad(loss, weights, allow_unused=True)
    except (TorchDynamoException, InductorError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return " ".join(lines[:2]) or type(error).__name__  # dynamo's says which backend first
    finally:
        for name, buffer in network.named_buffers():
            buffer.copy_(buffers[name])  # running statistics, where the network has any
    return None


def _phase(trainer: pl.Trainer) -> str | None:
    callbacks: list[pl.Callback] = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
    sparsify = next((c for c in callbacks if isinstance(c, SparsifyModel)), None)
    return None if sparsify is None else sparsify.phase
