"""What the sparse products of a layer gain over dense ones, at its number of tokens.

Measured where `tune` has timed exactly that product on this machine, else expected from its sizes
(`products.expected_us`): in bfloat16, as long as which float16 takes; without the time that packing
takes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sparsetrain.nn.flops import counting
from sparsetrain.products import Entry, Problem, expected_us
from sparsetrain.products.problem import DENSE_FLOPS_PER_US, LAUNCH_US


@dataclass(frozen=True)
class Gain:
    """One product. native_us, dense_us: microseconds, measured here or expected."""

    native_us: float
    dense_us: float
    measured: bool


def gain_of(problem: Problem, entries: Mapping[Problem, Entry], multiprocessors: int) -> Gain:
    """What was measured of a product, else what its sizes let expect."""
    entry = entries.get(problem)
    if entry is not None:
        # Where something else than the kernel won, the kernel was no faster than dense.
        native_us = entry.us if entry.engine == "native" else entry.dense_us
        return Gain(native_us, entry.dense_us, measured=True)
    native_us = expected_us(problem, multiprocessors) + LAUNCH_US
    return Gain(native_us, problem.flops / DENSE_FLOPS_PER_US, measured=False)


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
    state = {name: tensor.detach().to("meta") for name, tensor in tensors}
    hooks = [
        layer.register_forward_pre_hook(partial(note, name), with_kwargs=True)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear)
    ]
    try:
        with counting(model) as counter:
            torch.func.functional_call(model, state, tuple(x.to("meta") for x in inputs))
    finally:
        for hook in hooks:
            hook.remove()
    tokens.flops = counter.get_total_flops()
    return tokens
