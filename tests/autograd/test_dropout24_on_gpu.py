"""dropout24 and the linear layer behind it on the GPU's kernels, against float64."""

import pytest
import torch
import torch.nn.functional as F
from autograd_checks import normal
from kernel_checks import needs_kernels
from matmul_checks import needs_hopper
from op_calls import OpCalls
from ops_checks import assert_as_accurate_as_torch

from sparsetrain.autograd import dropout24, dropout24_linear
from sparsetrain.products import NATIVE, unpruned

no_context = "ignore:Attempting to run cuBLAS, but there was no current CUDA context:UserWarning"
pytestmark = [pytest.mark.gpu, needs_kernels, needs_hopper, pytest.mark.filterwarnings(no_context)]

DEVICE = "cuda"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("tokens", [256, 4 * 197 + 3])
def test_it_is_as_accurate_as_a_masked_linear_layer(dtype, tokens):
    shapes = [(tokens, 384), (192, 384), (192,), (tokens, 192)]
    x, w, b, grad = (
        normal(*shape, seed=i).to(DEVICE, dtype) * (0.05 if i == 1 else 1)
        for i, shape in enumerate(shapes)
    )
    torch.manual_seed(1)
    factor = dropout24(torch.ones(tokens, 384, device=DEVICE))
    assert set(factor.unique().tolist()) == {0.0, 2.0}

    def of(function, *tensors):
        tensors = [t.detach().clone().requires_grad_() for t in tensors]
        y = function(*tensors)
        y.backward(grad.to(y.dtype))
        return [y.detach(), *(t.grad for t in tensors)]

    def plain(x, w, b):
        return F.linear(x * factor.to(x.dtype), w, b)

    def ours(x, w, b):
        torch.manual_seed(1)
        return dropout24_linear(x, w, b, unpruned(w.detach(), NATIVE, dtype))

    with OpCalls() as calls:
        got = of(ours, x, w, b)
    assert calls.count("matmul24") == 2
    theirs = of(plain, x, w, b)
    exact = of(plain, x.double(), w.double(), b.double())
    for one, two, right in zip(got, theirs, exact, strict=True):
        assert_as_accurate_as_torch(one, two, right)
