"""The MLP with 2:4 squared ReLU in fp8, against float64 of the operands that each product reads."""

import pytest
import torch
from autograd_checks import backward, normal
from torch import Tensor

from sparsetrain.autograd import packed_squared_relu_mlp
from sparsetrain.nn.mlp import FIRST, SECOND
from sparsetrain.ops import mask24, select24
from sparsetrain.products import FP8, pack, product_of, unpruned
from sparsetrain.reference.masks24 import select_mask24
from sparsetrain.reference.quantize import Scaling, dequantize, quantize
from sparsetrain.select import EXACT

FORMATS = [FP8(), FP8("block"), FP8("tensor", power_of_two=True)]


def in_fp8(x: Tensor, format: FP8, scaling: Scaling = "row") -> Tensor:
    """Give what x stands for once it is quantized, in float64."""
    q, scales = quantize(x.float(), torch.float8_e4m3fn, scaling, format.power_of_two)
    return dequantize(q, scales).double()


def by_hand(x, w1, b1, w2, b2, dy, sparse, format):
    """Give the output and all gradients in float64, product by product."""
    a1, a2 = (mask24(w, select24(w, EXACT.rule)) if sparse else w for w in (w1, w2))
    x, w1, b1, w2, b2, dy = (t.double() for t in (x, a1, b1, a2, b2, dy))
    weight = format, format.scaling
    if sparse:
        z = in_fp8(x, format) @ in_fp8(w1, *weight).T + b1
        dh = in_fp8(dy, format) @ in_fp8(w2.T.contiguous(), *weight).T
    else:
        z, dh = x @ w1.T + b1, dy @ w2
    h = z.relu().square()
    h24 = h * select_mask24(h.float(), EXACT.rule)
    y = in_fp8(h24, format) @ in_fp8(w2, format).T + b2
    dz = 2 * h24.sqrt() * dh
    dx = in_fp8(dz, format) @ in_fp8(w1.T.contiguous(), format).T
    return [y, dx, dz.T @ x, dz.sum(0), dy.T @ h24, dy.sum(0)]


@pytest.mark.parametrize("sparse", [False, True], ids=["activations", "all"])
@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_output_and_gradients_are_those_of_the_operands_in_fp8(format, sparse):
    shapes = (22, 132), (260, 132), (260,), (20, 260), (20,)
    x, w1, b1, w2, b2 = inputs = [normal(*shape, seed=i) for i, shape in enumerate(shapes)]
    dy = normal(22, 20, seed=9)
    product = product_of("native", format)

    def packed(w, forms):
        if not sparse:
            return unpruned(w.detach(), product, torch.float32)
        return pack(w.detach(), None, EXACT, product, torch.float32, forms)

    def mlp(x, w1, b1, w2, b2):
        weights = packed(w1, FIRST), packed(w2, SECOND)
        return packed_squared_relu_mlp(x, w1, b1, w2, b2, *weights, selection=EXACT)

    expected = by_hand(x, w1, b1, w2, b2, dy, sparse, format)
    for got, exact in zip(backward(mlp, inputs, dy), expected, strict=True):
        assert got.dtype == torch.float32
        assert (got - exact).abs().max() < 1e-5 * exact.abs().max()
