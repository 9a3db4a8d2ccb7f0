"""gelu_quantize and gelu_backward_quantize: the bits of the two ops that each is made of."""

import pytest
import torch
from ops_checks import gaussian

from sparsetrain.ops import (
    gelu,
    gelu_backward,
    gelu_backward_quantize,
    gelu_quantize,
    quantize,
)

E4M3 = torch.float8_e4m3fn


def test_a_row_by_hand():
    # gelu(0) = 0 and gelu(100) = 100, which is the largest of its row.
    q, scales = gelu_quantize(torch.tensor([[100.0, 0, -100]]), "none", E4M3, True)
    assert scales.tolist() == [[0.25]]
    assert q.float().tolist() == [[384, 0, 0]]  # 400 is halfway; 384 is even


@pytest.mark.parametrize("dtype", [E4M3, torch.int8], ids=str)
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16], ids=str)
def test_they_are_the_two_ops_one_after_the_other(given, dtype):
    grad_h, z = gaussian(9, 20, given), gaussian(9, 20, given, seed=1)
    for one, other in zip(
        gelu_quantize(z, "tanh", dtype), quantize(gelu(z, "tanh"), dtype), strict=True
    ):
        assert torch.equal(one.float(), other.float())
    apart = gelu_backward(grad_h, z)
    both = gelu_backward_quantize(grad_h, z, "none", dtype, True)
    for one, other in zip(both, (*apart, *quantize(apart[0], dtype, "row", True)), strict=True):
        assert torch.equal(one.float(), other.float())


def test_what_does_not_fit_is_refused():
    x = torch.ones(2, 4)
    with pytest.raises(ValueError, match=r"^dtype: torch.float16 is not supported; use float8_"):
        gelu_quantize(x, "none", torch.float16)
    with pytest.raises(ValueError, match=r"^approximate: 'erf' is unknown; use one of none, tanh"):
        gelu_backward_quantize(x, x, "erf", E4M3)  # pyright: ignore
    with pytest.raises(ValueError, match=r"^z: shape \(2, 5\) should be \(2, 4\), that of"):
        gelu_backward_quantize(x, torch.ones(2, 5), "none", E4M3)
