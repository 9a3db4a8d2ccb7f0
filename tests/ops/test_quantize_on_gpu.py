"""8-bit values on CUDA: the bits of the CPU, and PyTorch's own scaled product as a peer."""

import pytest
import torch
from ops_checks import assert_as_accurate_as_torch, gaussian

from sparsetrain.ops import quantize, quantize_both24, scaled_matmul24, select24, unpack24
from sparsetrain.reference.quantize import SCALINGS, dequantize

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore:.*runs in plain PyTorch")]

E4M3 = torch.float8_e4m3fn

every_scaling = pytest.mark.parametrize("scaling", SCALINGS)


def same_bits(one, other):
    return torch.equal(one.cpu().view(torch.uint8), other.view(torch.uint8))


@every_scaling
@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize("dtype", [E4M3, torch.int8], ids=str)
def test_cuda_gives_the_bits_of_the_cpu(scaling, power_of_two, dtype):
    x = gaussian(260, 388, torch.bfloat16) * 10 ** gaussian(260, 1, torch.bfloat16, seed=1)
    x[3], x[140, 7], x[259, 2] = 0, float("nan"), float("inf")
    mask = select24(x, "transposable")
    given = dtype, scaling, power_of_two
    for got, expected in (
        (quantize(x.cuda(), *given), quantize(x, *given)),
        (quantize_both24(x.cuda(), mask.cuda(), *given), quantize_both24(x, mask, *given)),
    ):
        for one, other in zip(got, expected, strict=True):
            finite = other.float().isfinite() if other.dtype != torch.uint8 else slice(None)
            assert same_bits(one.cpu()[finite], other[finite])
            assert torch.equal(one.cpu().float().isnan(), other.float().isnan())


@pytest.mark.parametrize("transpose_out", [False, True])
def test_the_product_is_as_accurate_as_pytorchs_scaled_product_by_row(transpose_out):
    if torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("PyTorch multiplies fp8 by row on compute capability 9.0 and above")
    x, y = gaussian(256, 4096).cuda(), gaussian(128, 4096, seed=1).cuda()
    values, meta, scales, *_ = quantize_both24(x, select24(x, "transposable"), E4M3)
    q, scales_b = quantize(y, E4M3)
    a = unpack24(values, meta)
    plain = torch.ops.aten._scaled_mm(a, q.T, scales, scales_b.T, out_dtype=torch.bfloat16)
    oracle = dequantize(a, scales).double() @ dequantize(q, scales_b).double().T
    got = scaled_matmul24(values, meta, scales, q.T, scales_b.T, None, transpose_out)
    got = got.T if transpose_out else got
    assert_as_accurate_as_torch(got, plain, oracle)
