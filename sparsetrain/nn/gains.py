"""What the sparse products of a layer gain over dense ones, at its number of tokens.

Measured where `tune` has timed exactly that product on this machine, else expected from its sizes
(`choice.expected_us`): in bfloat16, as which float16 takes; without the time that packing takes.

Dimension key:  T tokens   I input   H hidden   O output features
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsetrain.choice import BLayout, Entry, Problem, expected_us
from sparsetrain.choice.problem import DENSE_FLOPS_PER_US, LAUNCH_US
from sparsetrain.reference.pack24 import padded_rows

Products = dict[str, Problem]
"""The sparse products of a layer, by what they compute."""


@dataclass(frozen=True)
class Gain:
    """One product. native_us, dense_us: microseconds, measured here or expected."""

    native_us: float
    dense_us: float
    measured: bool


def linear_products(tokens: int, shape: tuple[int, int], *, both: bool, mvue: bool) -> Products:
    """Of a linear layer (O, I) with a 2:4 weight (autograd/linear.py).

    both: the weight is 2:4 in both orientations. mvue: grad weight is sparse as well.
    """
    O, I = shape  # noqa: E741
    products = {"forward": _problem(O, tokens, I, "columns", transpose_out=True)}
    if both:
        products["grad input"] = _problem(I, tokens, padded_rows(O), "columns", transpose_out=True)
    if mvue:
        products["grad weight"] = _problem(O, I, padded_rows(tokens), "rows")
    return products


def mlp_products(tokens: int, shape: tuple[int, int, int]) -> Products:
    """Of an MLP (I, H, O) whose hidden activations are the sparse operand (autograd/mlp.py)."""
    I, H, O = shape  # noqa: E741
    padded = padded_rows(tokens)
    return {
        "fc2 forward": _problem(tokens, O, H, "columns"),
        "fc1 grad input": _problem(tokens, I, H, "rows"),
        "fc1 grad weight": _problem(H, I, padded, "rows"),
        "fc2 grad weight": _problem(H, O, padded, "rows", transpose_out=True),
    }


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


def _problem(M: int, N: int, K: int, b_layout: BLayout, transpose_out: bool = False) -> Problem:
    return Problem(torch.bfloat16, M, N, K, b_layout, transpose_out)
