"""scaled_gelu_matmul24: GELU of the scaled product, times given factors, in 8 bits."""

import pytest
import torch
import torch.nn.functional as F
from ops_checks import gaussian

from sparsetrain import ops
from sparsetrain.reference.quantize import dequantize

E4M3 = torch.float8_e4m3fn


def operands(M=24, N=10, K=64):
    w, x = gaussian(M, K), gaussian(N, K, seed=1)
    q, scales = ops.quantize(x, E4M3)
    return *ops.quantize24(w, ops.select24(w, "row"), E4M3), q.T, scales.T


def test_a_product_by_hand():
    # Rows 1 0 3 0 and 0 2 0 0; x = 1 1 1 1 times 2.
    w = torch.tensor([[1.0, 0, 3, 0], [0, 2, 0, 0]])
    packed = ops.quantize24(w, ops.select24(w, "row"), E4M3, "tensor", True)
    x, scales = ops.quantize(torch.full((1, 4), 2.0), E4M3, "row", True)
    bias = torch.tensor([92.0, -104])
    q = ops.scaled_gelu_matmul24(*packed, x.T, scales.T, bias, "none", torch.tensor([[4.0]]))
    assert q.dtype == E4M3
    assert q.float().tolist() == [[384, 0]]  # 8 + 92 = 100 is 400 quarters, halfway; 384 is even


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_it_is_gelu_of_the_product_rounded_once(approximate):
    given, bias = operands(), gaussian(1, 24, seed=2)[0]
    h = F.gelu(ops.scaled_matmul24(*given, bias, True, torch.float32), approximate=approximate)
    factors = torch.linspace(0.5, 20, 10)[:, None]
    q = ops.scaled_gelu_matmul24(*given, bias, approximate, factors)
    assert q.is_contiguous()
    assert torch.equal(q.float(), (h * factors).clamp(-448, 448).to(E4M3).float())


def test_what_is_too_large_is_the_largest_number_and_nan_stays():
    values, meta, scales, b, scales_b = operands()
    scales_b = scales_b.clone()
    scales_b[0, 3] = float("nan")
    given = values, meta, scales, b, scales_b, None, "none"
    q = ops.scaled_gelu_matmul24(*given, torch.full((10, 1), 1e6)).float()
    assert q[3].isnan().all()
    rest = q[[0, 1, 2, 4, 5, 6, 7, 8, 9]]
    assert rest.max() == 448
    assert rest.isfinite().all()


def test_what_does_not_fit_is_refused():
    given = operands()
    scales = torch.ones(10, 1)
    with pytest.raises(ValueError, match=r"^approximate: 'erf' is unknown; use one of none, tanh"):
        ops.scaled_gelu_matmul24(*given, None, "erf", scales)  # pyright: ignore
    with pytest.raises(ValueError, match=r"^factors_out: shape \(1, 10\) should be \(10, 1\), one"):
        ops.scaled_gelu_matmul24(*given, None, "none", scales.T)
    with pytest.raises(ValueError, match=r"^bias: torch.bfloat16 should be float32"):
        ops.scaled_gelu_matmul24(*given, torch.ones(24).bfloat16(), "none", scales)
    w = gaussian(4, 8)
    packed = ops.quantize24(w, ops.select24(w, "row"), torch.int8)
    q, s = ops.quantize(gaussian(3, 8), torch.int8)
    with pytest.raises(ValueError, match=r"^values: torch.int8 is not supported; use float8_e4m3"):
        ops.scaled_gelu_matmul24(*packed, q.T, s.T, None, "none", torch.ones(3, 1))


def test_it_stands_for_what_quantize_of_gelu_stands_for():
    given = operands(M=256, N=64, K=256)
    h = F.gelu(ops.scaled_matmul24(*given, None, True, torch.float32))
    scales = h.abs().amax(1, keepdim=True) * 100 / 448  # a bound that is 100 times too large
    q = ops.scaled_gelu_matmul24(*given, None, "none", scales.reciprocal())
    error = (dequantize(q, scales) - h).norm() / h.norm()
    own = (dequantize(*ops.quantize(h, E4M3)) - h).norm() / h.norm()
    assert error < 1.05 * own
