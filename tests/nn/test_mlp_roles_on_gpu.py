"""MLPs of other names on a GPU: the bits of timm's names, eager and compiled."""

from typing import Any

import pytest
import torch
from kernel_checks import needs_kernels
from matmul_checks import needs_hopper
from nn_checks import Mlp, normal
from torch import nn
from torchvision.models.vision_transformer import MLPBlock

import sparsetrain as st
from sparsetrain.nn import SparseMlp

pytestmark = [
    pytest.mark.gpu,
    needs_kernels,
    needs_hopper,
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning"),
]


def trained(mlp: nn.Module, activation: Any, compiled: bool) -> list[torch.Tensor]:
    """The output, and the gradients of x and of the parameters, under autocast."""
    model: Any = nn.ModuleList([mlp]).cuda()
    st.sparsify(model, st.Sparsity(activation=activation), engine="native")
    assert isinstance(model[0], SparseMlp)
    forward = torch.compile(model[0], fullgraph=True) if compiled else model[0]
    x = normal(1025, 192).cuda().requires_grad_()
    with torch.autocast("cuda", torch.bfloat16):
        y = forward(x)
    y.float().square().sum().backward()
    grads = [p.grad for p in (x, *model.parameters())]
    return [y, *(grad for grad in grads if grad is not None)]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("activation", [None, st.Activation24()], ids=str)
def test_torchvisions_mlp_has_the_bits_of_timms(activation, compiled):
    torch.compiler.reset()
    torch.manual_seed(0)
    torchvisions, timms = MLPBlock(192, 768, 0.0), Mlp(192, 768)
    with torch.no_grad():
        for own, other in zip(timms.parameters(), torchvisions.parameters(), strict=True):
            own.copy_(other)
    found = trained(torchvisions, activation, compiled)
    expected = trained(timms, activation, compiled)
    assert len(found) == 6
    for ours, timm in zip(found, expected, strict=True):
        assert torch.equal(ours, timm)
