"""gelu: F.gelu of a matrix, rounded once."""

import math

import pytest
import torch
from ops_checks import gaussian
from torch import Tensor

from sparsetrain.ops import gelu


def exactly(z: Tensor, approximate: str) -> Tensor:
    """Give gelu of z in float64, from its formula; erfc keeps its digits far on the left."""
    z = z.double()
    if approximate == "tanh":
        return z * torch.sigmoid(math.sqrt(8 / math.pi) * (z + 0.044715 * z**3))
    return 0.5 * z * torch.erfc(-z / math.sqrt(2))


def test_a_row_by_hand():
    got = gelu(torch.tensor([[0.0, 1, -1, 2]], dtype=torch.float64))
    expected = [0, 0.8413447461, -0.1586552539, 1.9544997361]
    assert got[0].tolist() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 5), (64, 130), (0, 4), (4, 0)])
def test_it_is_the_formula(rows, columns, approximate):
    z = 3 * gaussian(rows, columns, torch.float64)
    torch.testing.assert_close(gelu(z, approximate), exactly(z, approximate))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_results_are_rounded_to_the_dtype_of_z(approximate, dtype):
    z = gaussian(40, 12, dtype)
    got = gelu(z, approximate)
    assert got.dtype == dtype
    torch.testing.assert_close(
        got.double(), exactly(z, approximate), rtol=torch.finfo(dtype).eps, atol=1e-6
    )


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_nan_stays_nan(approximate):
    z = gaussian(3, 20)
    z[1, 3] = float("nan")
    assert torch.equal(gelu(z, approximate).isnan(), z.isnan())


def test_an_approximation_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match=r"^approximate: 'erf' is unknown; use one of none, tanh"):
        gelu(torch.ones(2, 4), "erf")  # pyright: ignore[reportArgumentType]
