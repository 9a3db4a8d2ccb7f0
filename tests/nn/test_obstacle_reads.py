"""Which sources read a weight past its layer, and which only ask about it."""

import pytest
import torch
from torch import nn

from sparsetrain.nn import Sparsity, sparsify


class Asks(nn.Module):
    """As T5 does, whose output layer may stay in float32."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x):
        if isinstance(self.fc.weight, torch.Tensor) and x.dtype != self.fc.weight.dtype:
            x = x.to(self.fc.weight.dtype)
        return self.fc(x)


class Timescale(nn.Module):
    """Holds a small layer that is not its first: no MLP of coordinates."""

    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = nn.Linear(first, 8), nn.Linear(second, 8)


def test_a_module_that_asks_for_the_type_and_dtype_of_a_weight_calls_its_layer():
    assert sparsify(Asks(), Sparsity()).skipped == ()


@pytest.mark.parametrize(("sizes", "dense"), [((2, 8), {"first", "second"}), ((8, 2), {"second"})])
def test_an_mlp_takes_coordinates_if_its_first_layer_does(sizes, dense):
    model = nn.ModuleDict({"fc": nn.Linear(8, 8), "mlp": Timescale(*sizes)})
    report = sparsify(model, Sparsity())
    assert {row.name.removeprefix("mlp.") for row in report.skipped} == dense
