"""inspect and density against values computed by hand."""

import math
from typing import Any

import pytest
import torch
from nn_checks import Net, seeded
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import sparsetrain as st
from sparsetrain.methods import SSTE, STE
from sparsetrain.nn import (
    Sparsity,
    density,
    inspect,
    set_sparse,
    sparsify,
    update_masks,
)
from sparsetrain.select import ROW


def one_layer(rows, method=None):
    """Masks by row, which S-STE has of itself."""
    model = seeded(nn.Sequential(nn.Linear(4, len(rows))))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor(rows))
    sparsify(model, Sparsity(weight=method or STE(), selection=ROW))
    return model


def test_a_row_by_hand():
    stats = inspect(one_layer([[1.0, -4, 3, 2], [2.0, 0, 0, 0]]))
    assert len(stats) == 1
    assert stats[0].name == "0"
    assert stats[0].shape == (2, 4)
    assert stats[0].density == 3 / 8  # a kept zero is a zero
    assert stats[0].kept_energy == pytest.approx((16 + 9 + 4) / (1 + 16 + 9 + 4 + 4))
    assert stats[0].flip_rate is None
    assert stats[0].nan == 0


def test_layers_come_in_model_order_and_weigh_by_their_size():
    model = seeded(Net())
    sparsify(model, Sparsity())
    assert [s.name for s in inspect(model)] == ["embed", "mlp.fc1", "mlp.fc2", "head"]
    assert density(model) == 0.5
    set_sparse(model.mlp.fc1, False)
    assert [s.density for s in inspect(model)] == [0.5, 1.0, 0.5, 0.5]
    assert density(model) == pytest.approx((64 + 2 * 128 + 128 + 32) / 2 / (64 + 256 + 32))


def test_a_dense_phase_uses_all_and_still_shows_the_energy_of_its_mask():
    model = one_layer([[1.0, -4, 3, 2], [2.0, 0, 0, 0]])
    set_sparse(model, False)
    assert inspect(model)[0].density == 1.0
    assert inspect(model)[0].kept_energy == pytest.approx(29 / 34)


def test_a_kept_mask_shows_in_energy_and_density():
    model = one_layer([[1.0, -4, 3, 2], [2.0, 0, 0, 0]])
    update_masks(model)
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[5.0, 0, 3, 2], [1.0, 1, 1, 1]]))
    stats = inspect(model)[0]
    assert stats.density == 3 / 8
    assert stats.kept_energy == pytest.approx((9 + 2) / (25 + 9 + 4 + 4))


def test_s_ste_is_as_dense_as_its_soft_weight():
    stats = inspect(one_layer([[1.0, -4, 3, 2], [3.0, 3, 3, 1]] * 2, SSTE()))[0]
    # The second row has its second smallest magnitude three times: nothing is left of it.
    assert stats.density == 4 / 16


def test_flip_rates_are_shares_of_all_weights():
    model = one_layer([[1.0, -4, 3, 2], [2.0, 1, 0, 0]])
    update_masks(model)
    assert inspect(model)[0].flip_rate is None
    update_masks(model)
    assert inspect(model)[0].flip_rate == 0.0
    with torch.no_grad():
        model[0].weight[0] = torch.tensor([5.0, -4, 3, 2])
    update_masks(model)
    assert inspect(model)[0].flip_rate == 2 / 8


def test_nan_is_counted_and_its_energy_is_no_number():
    model = one_layer([[1.0, float("nan"), 3, 2], [float("nan"), 1, 0, 0]])
    assert inspect(model)[0].nan == 2
    assert math.isnan(inspect(model)[0].kept_energy)


def test_a_weight_of_zeros_keeps_all_of_its_energy():
    stats = inspect(one_layer([[0.0, 0, 0, 0]] * 4))[0]
    assert (stats.kept_energy, stats.density) == (1.0, 0.0)


def test_a_bfloat16_weight_is_summed_in_float32():
    model = seeded(nn.Sequential(nn.Linear(1024, 8))).bfloat16()
    with torch.no_grad():
        model[0].weight.fill_(1.0)
    sparsify(model, Sparsity())
    assert inspect(model)[0].kept_energy == 0.5


def test_a_model_without_sparse_layers_is_dense():
    assert inspect(seeded(Net())) == []
    assert density(seeded(Net())) == 1.0


def test_two_levels_have_their_energies_side_by_side():
    pattern = st.Combined(st.Block(4, 4, 0.5, balanced=False))
    model: Any = nn.Sequential(nn.Linear(8, 4, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.arange(1.0, 33.0).reshape(4, 8))
    sparsify(model, Sparsity(pattern=pattern, selection=st.Selection("row")))
    weight = model[0].weight.detach().double().square()
    [stats] = inspect(model)
    # The right block, and the right half of it.
    assert stats.outer_energy == pytest.approx(float(weight[:, 4:].sum() / weight.sum()))
    assert stats.kept_energy == pytest.approx(float(weight[:, 6:].sum() / weight.sum()))
    assert stats.density == pattern.density == 0.25


class Reads(TorchDispatchMode):
    """Counts numbers that the host reads one by one."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_the_host_reads_no_number_of_a_layer_by_itself():
    model = seeded(Net())
    sparsify(model, Sparsity())
    update_masks(model)
    update_masks(model)
    with Reads() as reads:
        inspect(model)
    assert reads.count == 0


def test_an_energy_that_is_not_finite_is_no_number():
    stats = inspect(one_layer([[1e30, 1.0, 3, 2], [2.0, 1, 0, 0]]))[0]
    assert math.isnan(stats.kept_energy)
    assert stats.nan == 0
