"""torch.compile for training steps; with `compile=auto` it is tried before it is trusted."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sparsetrain.lightning.callbacks.sparsify import SparsifyModel
from sparsetrain.lightning.classifier import Classifier
from sparsetrain.lightning.flavour import Callback, each, pl
from sparsetrain.nn.sharded import reshard

_TRIED = (
    *each("strategies.SingleDeviceStrategy"),
    *each("strategies.DDPStrategy"),
    *each("strategies.ModelParallelStrategy"),
)


def cache_sparse_graphs() -> None:
    """Have torch.compile keep graphs of sparse layers on disk too, for the next process: those with
    autograd functions it leaves out by default, and traces their backward again."""
    from torch._functorch import config

    name = "autograd_cache_allow_custom_autograd_functions"
    if hasattr(config, name):
        setattr(config, name, True)


def compile_classifier(module: Classifier, mode: str | None = None) -> None:
    """Compile what a classifier says is to be compiled, in place, each part by itself. mode: of
    torch.compile."""
    parts = module.to_compile()
    if parts == [module.network]:
        module.network.compile(mode=mode)
        return
    # Blocks run one code object, whose graphs torch counts together, 8 at most: past that it goes
    # on eager. Each rate of drop path is a graph, and so is each phase.
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, 8 * len(parts))
    for block in parts:
        block.compile(mode=mode, dynamic=False)


class EagerValidation(Callback):
    """Validate `pl_module.network` eager where it, or a part of it, trains compiled: compiling it
    once more, and again for a smaller last batch, takes about as long as compiling the training
    step."""

    def __init__(self) -> None:
        self._calls: dict[Any, Any] = {}  # compiled calls, while validation runs without them

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        network: Any = pl_module.network
        self._calls = {m: m._compiled_call_impl for m in network.modules() if m._compiled_call_impl}
        for module in self._calls:
            module._compiled_call_impl = None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for module, call in self._calls.items():
            module._compiled_call_impl = call
        self._calls = {}

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self.on_validation_end(trainer, pl_module)


class CompileWhereItWorks(EagerValidation):
    """Compile a `Classifier` for training on CUDA, and say so in one line; elsewhere nothing.

    In the first step, and in the first of each phase, a forward and a backward of the batch are run
    compiled before the step itself. They leave no trace: no gradients, and the random numbers are
    put back. Where compiling fails there, on one process of several too, the run goes on eager on
    all and says why; any other error is raised as it is.

    tell: prints a line. Give this callback after `SparsifyModel`.
    """

    def __init__(self, tell: Any = print) -> None:
        super().__init__()
        self.tell = pl.utilities.rank_zero_only(tell)  # pyright: ignore[reportAttributeAccessIssue]
        self.compiled = False
        self._tried: set[str | None] = set()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._tried = set()
        assert isinstance(pl_module, Classifier)
        reason = why_eager(trainer)
        self.compiled = reason is None
        if self.compiled:
            compile_classifier(pl_module)
            how = "" if pl_module.to_compile() == [pl_module.network] else ", each block by itself"
            self.tell(f"compile=auto: training steps run under torch.compile{how}")
        elif trainer.strategy.root_device.type == "cuda":
            self.tell(f"compile=auto: training steps run eager, because {reason}")

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        phase = _phase(trainer)
        if not self.compiled or phase in self._tried:
            return
        self._tried.add(phase)
        assert isinstance(pl_module, Classifier)
        error = try_compiled(pl_module, batch[0], trainer)
        if not trainer.strategy.reduce_boolean_decision(error is None):
            for module in pl_module.to_compile():
                module._compiled_call_impl = None
            self.compiled = False
            error = error or "on another process"
            self.tell(f"compile=auto: training steps run eager, because compiling failed: {error}")


def why_eager(trainer: pl.Trainer) -> str | None:
    """Why a run is not compiled before anything is tried; None if it is."""
    if trainer.strategy.root_device.type != "cuda":
        return "the device is no GPU"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if not isinstance(trainer.strategy, _TRIED):
        name = type(trainer.strategy).__name__
        return f"it is not tried under {name}; compile=true asks for it"
    return None


def try_compiled(module: Classifier, images: Tensor, trainer: pl.Trainer) -> str | None:
    """Run a compiled forward and backward; what the error says if compiling fails."""
    network, parts = module.network, module.to_compile()
    devices = [images.device] if images.device.type == "cuda" else []
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    try:
        with torch.random.fork_rng(devices), trainer.precision_plugin.forward_context():
            if parts == [network]:
                with _as_in_ddp(trainer.strategy.model):
                    return _try(network, network, images)
            return _try_blocks(network, parts, images)
    finally:
        for name, buffer in network.named_buffers():
            buffer.copy_(buffers[name])  # running statistics, where the network has any


def _try_blocks(network: nn.Module, blocks: Sequence[nn.Module], images: Tensor) -> str | None:
    """Try each block where an eager forward without gradients comes to it.

    FSDP2 has made its weights whole there, plain tensors that take gradients, and no hook of FSDP2
    runs in between: what fails on one process leaves no other waiting in a collective, and no
    gradient is reduced. The training step finds these graphs: they are of the blocks' `forward`.
    """
    errors: list[str] = []

    def look(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not errors:
            forward = torch.compile(block.forward, dynamic=False)
            error = _try(block, forward, *map(_as_output, args), **kwargs)
            errors.extend([] if error is None else [error])

    hooks = [block.register_forward_pre_hook(look, with_kwargs=True) for block in blocks]
    try:
        with torch.compiler.set_stance("force_eager"), torch.no_grad():
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
    reshard(network)
    return errors[0] if errors else None


@torch.enable_grad()
def _as_output(x: Any) -> Any:
    """An input as a module before would give it: no leaf, and it takes a gradient."""
    floats = isinstance(x, Tensor) and x.is_floating_point()
    return x.detach().requires_grad_().clone() if floats else x


def _try(
    module: nn.Module, forward: Callable[..., Tensor], *args: Any, **kwargs: Any
) -> str | None:
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor.exc import InductorError

    tensors = [x for x in (*args, *module.parameters()) if isinstance(x, Tensor)]
    trained = [x for x in tensors if x.requires_grad]  # of a frozen block the input
    try:
        # The first sparse step itself is watched without compiled code.
        with torch.compiler.set_stance("default"), torch.enable_grad():
            loss = forward(*args, **kwargs).float().square().mean()
            # Not `backward`: gradients stay as they are, and DDP does not wait for other processes.
            with torch.autocast(loss.device.type, enabled=False):
                torch.autograd.grad(loss, trained, allow_unused=True)
    except (TorchDynamoException, InductorError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return " ".join(lines[:2]) or type(error).__name__  # dynamo's says which backend first
    return None


def _as_in_ddp(model: Any) -> AbstractContextManager[Any]:
    """As in a forward of DDP, where torch.compile cuts the graph at DDP's buckets: the gradients of
    one are summed while the backward of the next runs. What is compiled elsewhere has one backward,
    before which no gradient is there to be summed."""
    if isinstance(model, DistributedDataParallel):
        return model._inside_ddp_forward()
    return nullcontext()


def _phase(trainer: pl.Trainer) -> str | None:
    callbacks: list[pl.Callback] = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
    sparsify = next((c for c in callbacks if isinstance(c, SparsifyModel)), None)
    return None if sparsify is None else sparsify.phase
