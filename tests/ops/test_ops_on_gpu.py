"""Every op on a CUDA device gives what it gives on the CPU, whichever kernel serves it."""

import pytest
import torch
from ops_checks import gaussian
from test_every_op import NAMES, PRODUCTS, calls, leaves, opchecks
from torch import Tensor

from sparsetrain import ops
from sparsetrain.select import RULES

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore:.*runs in plain PyTorch")]

ROUNDED = {"mvue24", "squared_relu24_backward", "gelu", "gelu_backward", "column_sums"}
QUANTIZED = {"gelu_quantize", "gelu_backward_quantize", "squared_relu24_backward_quantize"}
"""GELU and sums differ in the last digit, so scales may too, and numbers of 8 bits by one."""
STEPS = {torch.float32: 1e-5, torch.bfloat16: 8e-3, torch.float16: 1e-3}
"""A rounding of the dtype, relative to the largest value."""


def on_gpu(value):
    return value.cuda() if isinstance(value, Tensor) else value


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("rows", "columns"), [(8, 16), (37, 132), (0, 8), (260, 64)])
@pytest.mark.parametrize("name", NAMES)
def test_the_result_is_that_of_the_cpu(name, rows, columns, dtype):
    function, arguments = calls(rows, columns, dtype)[name]
    given = [on_gpu(argument) for argument in arguments]  # before add_mask24_ changes the first
    expected = leaves(function(*arguments))
    got = leaves(function(*given))
    for one, other in zip(got, expected, strict=True):
        assert one.device.type == "cuda"
        if one.dtype == torch.float8_e4m3fn and name in PRODUCTS:
            # The next number, where GELU or a sum differs in the last digit.
            torch.testing.assert_close(one.cpu().float(), other.float(), rtol=1 / 7, atol=2**-9)
        elif name in PRODUCTS and one.numel() > 0:
            largest = max(other.abs().max().item(), 1e-3)
            torch.testing.assert_close(one.cpu(), other, rtol=STEPS[one.dtype], atol=1e-5 * largest)
        elif name in ROUNDED and one.is_floating_point():
            torch.testing.assert_close(one.cpu(), other)
        elif name in QUANTIZED and one.numel() > 0:
            step = 1 if one.dtype == torch.int8 else STEPS[dtype] * other.abs().max().item()
            assert (one.cpu().float() - other.float()).abs().max() <= step
        else:
            assert one.dtype == other.dtype
            # torch.equal does not take float8.
            one, other = (t.float() if t.itemsize == 1 else t for t in (one.cpu(), other))
            assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("rows", "columns"), [(8, 16), (37, 132), (0, 8)])
@pytest.mark.parametrize("name", NAMES)
def test_opcheck_of_what_runs_on_the_gpu(name, rows, columns, dtype):
    _, arguments = calls(rows, columns, dtype)[name]
    op = getattr(torch.ops.sparsetrain, name).default
    given = tuple(on_gpu(argument) for argument in arguments)
    torch.library.opcheck(op, given, test_utils=opchecks(arguments))


@pytest.mark.parametrize("rule", RULES)
def test_masks_of_a_weight_do_not_depend_on_the_device(rule):
    x = gaussian(768, 3072)
    assert torch.equal(ops.select24(x.cuda(), rule).cpu(), ops.select24(x, rule))
