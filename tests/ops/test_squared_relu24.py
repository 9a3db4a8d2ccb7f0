"""squared_relu24 and its backward against relu, square and autograd."""

import pytest
import torch
from ops_checks import assert_as_accurate_as_torch, gaussian

from sparsetrain.ops import sparsify24, squared_relu24, squared_relu24_backward, unpack24
from sparsetrain.select import RULES

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def test_one_row_forward_and_backward():
    z = torch.tensor([[3.0, -9, 2, 1]])
    packed = squared_relu24(z, "row")
    assert packed[0].tolist() == [[9, 4]]
    assert packed[1][0, 0, 0] == 0 | 2 << 2
    grad_h = torch.tensor([[10.0, 20, 30, 40]])
    values, values_t, sums = squared_relu24_backward(grad_h, *packed, "row")
    assert values.tolist() == [[60, 120]]
    assert values_t[:, :2].tolist() == [[60, 0], [0, 0], [120, 0], [80, 0]]
    assert values_t[:, 2:].count_nonzero() == 0
    assert sums.tolist() == [60, 0, 120, 0]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_activation_is_that_of_torch_made_sparse(rule, dtype):
    z = gaussian(10, 16, dtype)
    expected = sparsify24(torch.relu(z).square(), rule)[:4]
    for got, want in zip(squared_relu24(z, rule), expected, strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("rule", RULES)
def test_the_gradient_is_that_of_autograd_through_the_kept_values(rule):
    z = gaussian(10, 16, torch.float64).requires_grad_()
    grad_h = gaussian(10, 16, torch.float64, seed=1)
    packed = squared_relu24(z.detach(), rule)
    values, values_t, sums = squared_relu24_backward(grad_h, *packed, rule)
    for got, kept, meta in (
        (unpack24(values, packed[1]), unpack24(packed[0], packed[1]), packed[1]),
        (unpack24(values_t, packed[3]).T[:10], unpack24(packed[2], packed[3]).T[:10], packed[3]),
    ):
        assert meta.dtype == torch.uint8
        (grad_z,) = torch.autograd.grad(torch.relu(z).square() * (kept != 0), z, grad_h)
        torch.testing.assert_close(got, grad_z)
    assert sums.dtype == torch.float64
    torch.testing.assert_close(sums, unpack24(values, packed[1]).sum(dim=0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gradient_is_as_accurate_as_torch_from_the_same_h(dtype):
    z, grad_h = gaussian(64, 32, dtype), gaussian(64, 32, dtype, seed=1)
    packed = squared_relu24(z)
    values, _, sums = squared_relu24_backward(grad_h, *packed, "transposable")
    h = unpack24(packed[0], packed[1])
    oracle = 2 * h.double().sqrt() * grad_h.double()
    plain = 2 * h.sqrt() * grad_h
    assert_as_accurate_as_torch(unpack24(values, packed[1]), plain, oracle)
    assert sums.dtype == torch.float32
    assert_as_accurate_as_torch(sums, oracle.float().sum(dim=0), oracle.sum(dim=0))


def test_where_nothing_was_kept_the_gradient_is_zero_whatever_comes_in():
    packed = squared_relu24(torch.full((5, 8), -1.0))
    grad_h = torch.full((5, 8), float("nan"))
    assert all(not out.any() for out in squared_relu24_backward(grad_h, *packed, "transposable"))


@pytest.mark.parametrize("rule", ["transposable", "transposable_l2"])
@pytest.mark.parametrize("rows", [128, 130, 5])
def test_where_both_orientations_have_one_mask_so_has_the_gradient(rule, rows):
    packed = squared_relu24(gaussian(rows, 16), rule)
    values, values_t, _ = squared_relu24_backward(gaussian(rows, 16, seed=1), *packed, rule)
    transposed = unpack24(values_t, packed[3])
    assert torch.equal(transposed[:, :rows], unpack24(values, packed[1]).T)
    assert transposed[:, rows:].count_nonzero() == 0


def test_a_nan_activation_stays_nan():
    z = torch.tensor([[float("nan"), -1.0, float("nan"), float("nan")]])
    values, *_ = squared_relu24(z, "row")
    assert values.isnan().tolist() == [[True, False]]


@pytest.mark.parametrize("change", [0, 1, 2, 3])
def test_a_packed_part_of_another_matrix_is_refused(change):
    packed = list(squared_relu24(gaussian(8, 16)))
    packed[change] = packed[change][1:]
    name = ["values", "meta", "values_t", "meta_t"][change]
    with pytest.raises(ValueError, match=rf"^{name}: shape .* as pack24 makes it"):
        squared_relu24_backward(gaussian(8, 16), *packed, rule="transposable")


def test_a_gradient_of_another_dtype_is_refused():
    packed = squared_relu24(gaussian(8, 16))
    with pytest.raises(ValueError, match=r"values: torch\.float32, but grad_h is torch\.bfloat16"):
        squared_relu24_backward(gaussian(8, 16, torch.bfloat16), *packed, "transposable")


def test_an_unknown_rule_is_refused():
    packed = squared_relu24(gaussian(8, 16))
    with pytest.raises(ValueError, match="rule: 'best' is unknown"):
        squared_relu24_backward(gaussian(8, 16), *packed, "best")  # pyright: ignore
