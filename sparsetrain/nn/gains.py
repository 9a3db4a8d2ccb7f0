"""The sparse products of a layer, recorded by running it once without numbers, and what they gain
over dense ones.

Measured where `tune` has timed exactly that product on this machine, else expected from its sizes
(`products.expected_us`): in bfloat16, as long as which float16 takes; without the time that packing
takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sparsetrain.nn.linear import SparseLinear
from sparsetrain.nn.mlp import SparseMlp
from sparsetrain.nn.phase import Phase
from sparsetrain.nn.sparsity import Part
from sparsetrain.products import Entry, Problem, Product, expected_us
from sparsetrain.products.problem import DENSE_FLOPS_PER_US, LAUNCH_US
from sparsetrain.schedule import Schedule

Products = dict[str, Problem]
"""The sparse products of a layer: `forward`, `backward 1`, …, in the order in which they run."""


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


@cache
def products_of(tokens: int, shape: tuple[int, ...], part: Part) -> Products:
    """Of a linear layer (O, I), or an MLP (I, H, O) as one function, that multiplies so many rows,
    with the methods, selection and format of `part`; the weights of an MLP may be dense in it."""
    if len(shape) == 2:
        return _recorded(_linear(shape[0], shape[1], part), tokens, shape[1])
    inputs, hidden, outputs = shape
    mlp = nn.Module()
    mlp.fc1, mlp.fc2 = _linear(hidden, inputs, part), _linear(outputs, hidden, part)
    mlp.act = nn.GELU()
    product = Product("native", part.format)
    layer = SparseMlp.from_dense(mlp, part.activation, product, _PHASE)
    return _recorded(layer, tokens, inputs)


_PHASE = Phase(Schedule())


class _Record(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.problems: list[Problem] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.sparsetrain.matmul24.default:
            values, _, b, *rest = args
            layout = "columns" if b.stride(0) == 1 else "rows"
            transposed = bool(rest[1]) if len(rest) > 1 else False
            sizes = values.shape[0], b.shape[1], 2 * values.shape[1]
            self.problems.append(Problem(values.dtype, *sizes, layout, transposed))
        if func is torch.ops.sparsetrain.scaled_matmul24.default:
            values, _, _, b, _, _, transposed, dtype = args
            sizes, wide = (values.shape[0], b.shape[1], 2 * values.shape[1]), dtype == torch.float32
            self.problems.append(Problem(values.dtype, *sizes, "columns", transposed, wide))
        return func(*args, **(kwargs or {}))


def _recorded(layer: nn.Module, tokens: int, features: int) -> Products:
    x = torch.empty(tokens, features, dtype=torch.bfloat16, device="meta", requires_grad=True)
    with _Record() as record, torch.enable_grad():
        y = layer(x)
        forward = len(record.problems)
        y.backward(torch.empty_like(y))
    names = []
    for way, count in (("forward", forward), ("backward", len(record.problems) - forward)):
        names += [f"{way} {i + 1}" if count > 1 else way for i in range(count)]
    return dict(zip(names, record.problems, strict=True))


def _linear(outputs: int, inputs: int, part: Part) -> nn.Linear:
    dense = nn.Linear(inputs, outputs, device="meta", dtype=torch.bfloat16)
    if part.weight is None:
        return dense
    product = Product("native", part.format)
    layer = SparseLinear.from_dense(dense, part.weight, part.selection, product, _PHASE).eval()
    layer.scale = torch.empty(1, device="meta")
    return layer
