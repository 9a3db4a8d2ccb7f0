"""gelu_backward: the gradient that autograd has of F.gelu, the activation, and the column sums."""

import pytest
import torch
import torch.nn.functional as F
from ops_checks import assert_as_accurate_as_torch, gaussian

from sparsetrain.ops import gelu, gelu_backward
from sparsetrain.reference.gelu import APPROXIMATIONS

INF, NAN = float("inf"), float("nan")
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]

approximations = pytest.mark.parametrize("approximate", APPROXIMATIONS)
dtypes = pytest.mark.parametrize("dtype", DTYPES)


def problem(rows, columns, dtype=torch.float32):
    return gaussian(rows, columns, dtype, seed=1), 2 * gaussian(rows, columns, dtype)


def by_autograd(grad_h, z, approximate):
    z = z.clone().requires_grad_()
    (grad,) = torch.autograd.grad(F.gelu(z, approximate=approximate), z, grad_h)
    return grad


def test_a_column_by_hand():
    # At 0 the slope is 1/2, at 1 it is 0.8413447461 + 0.2419707245.
    z = torch.tensor([[0.0], [1]]).double()
    grad_z, h, sums = gelu_backward(torch.tensor([[10.0], [-1]]).double(), z)
    assert grad_z[:, 0].tolist() == pytest.approx([5, -1.0833154706], abs=1e-9)
    assert sums.tolist() == pytest.approx([3.9166845294], abs=1e-9)
    assert torch.equal(h, gelu(z))


@dtypes
@approximations
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 5), (257, 130)])
def test_it_is_as_accurate_as_autograd(rows, columns, approximate, dtype):
    grad_h, z = problem(rows, columns, dtype)
    grad_z, h, sums = gelu_backward(grad_h, z, approximate)
    exact = by_autograd(grad_h.double(), z.double(), approximate)
    assert_as_accurate_as_torch(grad_z, by_autograd(grad_h, z, approximate), exact)
    wide = torch.promote_types(dtype, torch.float32)
    theirs = by_autograd(grad_h.to(wide), z.to(wide), approximate).sum(0)
    assert sums.dtype == wide
    assert_as_accurate_as_torch(sums, theirs, exact.sum(0))
    assert grad_z.dtype == h.dtype == dtype
    assert torch.equal(h, gelu(z, approximate))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_of_16_bit_numbers_are_not_rounded_to_16_bits(dtype):
    grad_h = torch.full((4099, 2), 2.0, dtype=dtype)
    _, _, sums = gelu_backward(grad_h, torch.zeros_like(grad_h))
    assert sums.tolist() == [4099, 4099]  # which neither dtype can represent
    # Nor are the terms: two slopes that add up to 1 round to numbers that do not.
    z = torch.linspace(0.1, 0.9, 9).to(dtype)
    grad_z, _, sums = gelu_backward(torch.ones(2, 9, dtype=dtype), torch.stack([z, -z]))
    assert (sums - 1).abs().max() < 1e-6
    assert (grad_z.double().sum(0) != 1).any()


@pytest.mark.parametrize(("rows", "columns"), [(0, 5), (4, 0), (0, 0)])
def test_no_rows_sum_to_zero(rows, columns):
    grad_z, h, sums = gelu_backward(*problem(rows, columns))
    assert grad_z.shape == h.shape == (rows, columns)
    assert sums.tolist() == [0] * columns


@approximations
def test_what_is_not_finite_stays_in_its_column(approximate):
    grad_h, z = problem(9, 6)
    z[3, 1], grad_h[4, 2], z[2, 3], grad_h[5, 4] = NAN, INF, -INF, NAN
    grad_z, _, sums = gelu_backward(grad_h, z, approximate)
    assert grad_z.isfinite().sum() == 9 * 6 - 4
    assert grad_z[4, 2].isinf()
    assert sums.isnan().tolist() == [False, True, False, True, True, False]
    assert sums[[0, 5]].isfinite().all()


@pytest.mark.parametrize(
    ("grad_h", "z", "complaint"),
    [
        (torch.ones(3, 4), torch.ones(3, 5), r"^z: shape \(3, 5\) should be \(3, 4\), that of"),
        (torch.ones(3, 4), torch.ones(3, 4).half(), r"^z: torch.float16, but grad_h is torch.fl"),
        (torch.ones(4), torch.ones(4), r"^grad_h: expected 2 dimensions, got shape \(4,\)"),
    ],
)
def test_what_does_not_fit_is_refused(grad_h, z, complaint):
    with pytest.raises(ValueError, match=complaint):
        gelu_backward(grad_h, z)


def test_an_approximation_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match=r"^approximate: 'erf' is unknown; use one of none, tanh"):
        gelu_backward(torch.ones(2, 4), torch.ones(2, 4), "erf")  # pyright: ignore
