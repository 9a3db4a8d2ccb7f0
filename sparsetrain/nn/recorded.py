"""The sparse products of a layer, recorded by running it once without numbers."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sparsetrain.methods import ActivationMethod, WeightMethod
from sparsetrain.nn.linear import SparseLinear
from sparsetrain.nn.mlp import SparseMlp
from sparsetrain.nn.phase import Phase
from sparsetrain.products import FP8, Problem, Product
from sparsetrain.schedule import Schedule
from sparsetrain.select import Selection

Products = dict[str, Problem]
"""The sparse products of a layer: `forward`, `backward 1`, …, in the order in which they run."""


@cache
def linear_products(
    tokens: int,
    shape: tuple[int, int],
    method: WeightMethod,
    selection: Selection,
    format: FP8 | None = None,
) -> Products:
    """Of a linear layer (O, I) that multiplies so many rows."""
    return _products(_linear(shape, method, selection, format), tokens, shape[1])


@cache
def mlp_products(
    tokens: int,
    shape: tuple[int, int, int],
    activation: ActivationMethod | None,
    method: WeightMethod | None,
    selection: Selection,
    format: FP8 | None = None,
) -> Products:
    """Of an MLP (I, H, O) as one function. method: of both weights, None where they are dense."""
    inputs, hidden, outputs = shape
    mlp = nn.Module()
    if method is None:
        mlp.fc1, mlp.fc2 = _dense((hidden, inputs)), _dense((outputs, hidden))
    else:
        mlp.fc1 = _linear((hidden, inputs), method, selection, format)
        mlp.fc2 = _linear((outputs, hidden), method, selection, format)
    mlp.act = nn.GELU()
    return _products(
        SparseMlp.from_dense(mlp, activation, Product("native", format), _PHASE), tokens, inputs
    )


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


def _products(layer: nn.Module, tokens: int, features: int) -> Products:
    x = torch.empty(tokens, features, dtype=torch.bfloat16, device="meta", requires_grad=True)
    with _Record() as record, torch.enable_grad():
        y = layer(x)
        forward = len(record.problems)
        y.backward(torch.empty_like(y))
    names = [f"forward {i + 1}" if forward > 1 else "forward" for i in range(forward)]
    backward = len(record.problems) - forward
    names += [f"backward {i + 1}" if backward > 1 else "backward" for i in range(backward)]
    return dict(zip(names, record.problems, strict=True))


def _dense(shape: tuple[int, int]) -> nn.Linear:
    return nn.Linear(shape[1], shape[0], device="meta", dtype=torch.bfloat16)


def _linear(
    shape: tuple[int, int], method: WeightMethod, selection: Selection, format: FP8 | None
) -> SparseLinear:
    product = Product("native", format)
    layer = SparseLinear.from_dense(_dense(shape), method, selection, product, _PHASE).eval()
    layer.scale = torch.empty(1, device="meta")
    return layer
