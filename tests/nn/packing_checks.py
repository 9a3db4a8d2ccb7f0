"""Models that pack their weights, and what the tests of it look at."""

from typing import Any

import pytest
import torch
from nn_checks import Net, normal, seeded
from sparsetrain.nn.packing import PackingLayer
from torch import nn

import sparsetrain as st
from sparsetrain.autograd import PORTABLE_ENGINES, Engine
from sparsetrain.select import RULES

PACKING = (
    "pack_into24",
    "mask24",
    "pack24",
    "soft_threshold24",
)
"""Ops that make a packed weight; with engine masked, `mask24` does of an activation too."""

SPARSITIES = {
    **{rule: st.Sparsity(weight=st.STE(rule)) for rule in RULES},
    "MVUE": st.Sparsity(weight=st.STE(mvue=True)),
    "SR-STE": st.Sparsity(weight=st.SRSTE(decay=0)),
    "S-STE": st.Sparsity(weight=st.SSTE()),
    "activations": st.Sparsity(weight=None, activation=st.Activation24()),
    "activations by row": st.Sparsity(weight=None, activation=st.Activation24("row")),
    "all": st.Sparsity(activation=st.Activation24()),
    "all, one linear dense": st.Sparsity(activation=st.Activation24()),
}
BOTH = ("transposable", "all")

engines = pytest.mark.parametrize("engine", PORTABLE_ENGINES)
kinds = pytest.mark.parametrize("kind", SPARSITIES)


def sparse_net(kind: str = "transposable", engine: Engine = "masked") -> Any:
    model = seeded(Net())
    st.sparsify(model, SPARSITIES[kind], engine=engine)
    if kind == "all, one linear dense":
        model.mlp.fc2 = model.mlp.fc2.to_dense()
    return model


def packing_layers(model: nn.Module) -> list[Any]:
    return [m for m in model.modules() if isinstance(m, PackingLayer)]


def holding(model: nn.Module) -> list[bool]:
    return [m.held is not None for m in packing_layers(model)]


def change(model: nn.Module, seed: int = 5) -> None:
    """Give the weights other values, which a forward cannot notice."""
    for i, parameter in enumerate(model.parameters()):
        if parameter.dim() == 2:
            parameter.data.copy_(normal(*parameter.shape, seed=100 * seed + i))


def step(model: nn.Module, batches: int = 1, dtype: torch.dtype = torch.float32) -> list[Any]:
    """Outputs of a few batches, then every gradient, accumulated."""
    model.zero_grad()
    torch.manual_seed(0)
    outputs = []
    for seed in range(batches):
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            out = model(normal(3, 5, 8, seed=seed))
        out.float().square().mean().backward()
        outputs.append(out.detach())
    return [*outputs, *(parameter.grad for parameter in model.parameters())]


def assert_same_bits(got: list[Any], expected: list[Any]) -> None:
    for one, other in zip(got, expected, strict=True):
        assert torch.equal(one, other)
