"""What the tests of layers share: small modules and what must hold of them."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsetrain.methods import STE, WeightMethod
from sparsetrain.nn import Phase, SparseLinear, sparse_linears
from sparsetrain.patterns import NM
from sparsetrain.products import PORTABLE, Engine, product_of
from sparsetrain.schedule import Schedule
from sparsetrain.select import EXACT, GREEDY, ROW, SQUARED, Selection

ENGINES = tuple(product.name for product in PORTABLE)
SELECTIONS = (EXACT, SQUARED, ROW, GREEDY)

engines = pytest.mark.parametrize("engine", ENGINES)
selections = pytest.mark.parametrize("selection", SELECTIONS, ids=str)


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Give normal numbers that depend on the arguments only."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Mlp(nn.Module):
    """The children and the forward of timm's `Mlp`."""

    def __init__(self, inputs: int = 8, hidden: int = 16, drop: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, hidden)
        self.act = nn.GELU()
        self.drop1 = nn.Dropout(0.0)
        self.norm = nn.Identity()
        self.fc2 = nn.Linear(hidden, inputs)
        self.drop2 = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop2(self.fc2(self.norm(self.drop1(self.act(self.fc1(x))))))


class Net(nn.Module):
    """A linear layer, an MLP and a head, on tokens [..., 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 8)
        self.mlp = Mlp()
        self.head = nn.Linear(8, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mlp(self.embed(x)))


def seeded(module: nn.Module, seed: int = 0) -> Any:
    """Fill the parameters with normal numbers; returns the module."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module


def sparse_linear(
    dense: nn.Linear,
    method: WeightMethod | None = None,
    selection: Selection = EXACT,
    engine: Engine = "masked",
) -> Any:
    """One layer made sparse, in a phase of its own."""
    phase, product = Phase(Schedule()), product_of(engine)
    return SparseLinear.from_dense(dense, method or STE(), selection, product, phase)


def layers(model: nn.Module) -> dict[str, Any]:
    """The sparse linear layers by name, for tests that know what of them is set."""
    return dict(sparse_linears(model))


def assert_sparse_both_ways(model: nn.Module) -> None:
    """Every sparse linear layer uses exactly half of its weight, 2:4 in both orientations."""
    assert layers(model)
    for layer in layers(model).values():
        used = layer.used_weight()
        assert NM(2, 4).holds(used)
        assert NM(2, 4).holds(used.T)
        assert used.count_nonzero() == used.numel() // 2


def assert_trains(model: nn.Module, x: Tensor) -> None:
    """A forward and a backward are finite, and every parameter has a gradient."""
    out = model(x)
    assert out.isfinite().all()
    out.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
