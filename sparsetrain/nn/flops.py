"""Tokens and floating-point operations of a forward, and what a GPU can do dense."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sparsetrain.nn.for_inference import ForInference
from sparsetrain.nn.phase import all_dense, evaluating

# Dense bf16 tensor-core FLOP/s from the vendors' datasheets (SXM parts where they differ).
_PEAKS = {
    "H200": 989e12,
    "H100": 989e12,
    "GH200": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "L40S": 362e12,
    "A10G": 70e12,
    "RTX 4090": 165e12,
}


def dense_peak_flops(device: torch.device) -> float | None:
    """Dense bf16 FLOP/s of a CUDA device by its name; None where it is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for key, peak in _PEAKS.items() if key in name), None)


@contextmanager
def _counting(model: nn.Module) -> Iterator[FlopCounterMode]:
    """Count the FLOPs of forwards inside: in evaluation, without gradients and compiled code."""
    counter = FlopCounterMode(display=False)
    # Compiled code would compile for the counter, and never again.
    with torch.no_grad(), evaluating(model), torch.compiler.set_stance("force_eager"), counter:
        yield counter


def training_flops_per_image(module: nn.Module, images: Tensor) -> float:
    """Dense FLOPs of forward and backward for one image: three times the dense forward.

    Leaves the module as it is, the training mode of every part included.
    """
    with all_dense(module), _counting(module) as counter:
        module(images[:1])
    return 3.0 * counter.get_total_flops()


class Tokens(dict[str, int]):
    """Rows that each linear layer multiplies in a forward, by its name.

    Of a layer that is called several times, the most; calls: of all calls together. flops: dense
    FLOPs of all matrix products of the forward, attention and convolutions included.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.flops = 0


def count_tokens(model: nn.Module, *inputs: Tensor) -> Tokens:
    """How many rows each linear layer multiplies, by its name, in a forward of `inputs`.

    Nothing is computed: parameters and inputs are taken as meta tensors. For models whose forward
    needs no values.
    """
    tokens = Tokens()

    def note(name: str, layer: nn.Module, args: Any, named: dict[str, Tensor]) -> None:
        x = args[0] if args else named["input"]
        rows = x.numel() // x.shape[-1]
        tokens[name] = max(rows, tokens.get(name, 0))
        tokens.calls[name] += rows

    tensors = [*model.named_parameters(), *model.named_buffers()]
    for name, layer in model.named_modules():
        if isinstance(layer, ForInference):
            tensors += [(f"{name}.{part}".lstrip("."), held) for part, held in layer.held().items()]
    state = {name: tensor.detach().to("meta") for name, tensor in tensors}
    hooks = [
        layer.register_forward_pre_hook(partial(note, name), with_kwargs=True)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear)
    ]
    try:
        with _counting(model) as counter:
            torch.func.functional_call(model, state, tuple(x.to("meta") for x in inputs))
    finally:
        for hook in hooks:
            hook.remove()
    tokens.flops = counter.get_total_flops()
    return tokens
