"""What the sparse products of a layer gain over dense ones, at its number of tokens.

Measured where `tune` has timed exactly that product on this machine, else expected from its sizes
(`products.expected_us`): in bfloat16, as long as which float16 takes; without the time that packing
takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

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


def count_tokens(model: nn.Module, *inputs: Tensor) -> dict[str, int]:
    """How many rows each linear layer multiplies, by its name, in a forward of `inputs`.

    Nothing is computed: parameters and inputs are taken as meta tensors. For models whose forward
    needs no values. Of a layer that is called several times, the most.
    """
    tokens: dict[str, int] = {}

    def watch(name: str, layer: nn.Module) -> Any:
        def note(layer: nn.Module, args: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
            x = args[0] if args else named["input"]
            tokens[name] = max(x.numel() // x.shape[-1], tokens.get(name, 0))

        return layer.register_forward_pre_hook(note, with_kwargs=True)

    state = {
        n: t.detach().to("meta") for n, t in [*model.named_parameters(), *model.named_buffers()]
    }
    hooks = [watch(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    modes = {part: part.training for part in model.modules()}
    model.eval()
    try:
        # What is compiled would compile for meta tensors.
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            torch.func.functional_call(model, state, tuple(x.to("meta") for x in inputs))
    finally:
        for part, mode in modes.items():
            part.training = mode
        for hook in hooks:
            hook.remove()
    return tokens
