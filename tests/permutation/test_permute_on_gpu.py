"""The order that is found on a GPU is that of a CPU."""

import pytest
import torch

import sparsetrain as st

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("solver", ["exact", "row"])
def test_units_have_the_order_of_a_cpu(solver):
    timm_layers = pytest.importorskip("timm.layers")
    orders = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        block = torch.nn.Sequential(timm_layers.Mlp(64, 256), timm_layers.Attention(64, 4))
        # Powers of two: their mean is exact, so the scores are the same numbers on both.
        with torch.no_grad():
            for parameter in block.parameters():
                parameter.copy_(2.0 ** torch.randint(-3, 3, parameter.shape))
        block.to(device)
        x = torch.randn(2, 5, 64)
        before = block(x.to(device))
        st.permute(block, st.Sparsity(selection=st.Selection(solver)), rounds=5)
        torch.testing.assert_close(block(x.to(device)), before, rtol=1e-3, atol=1e-3)
        orders.append([parameter.cpu() for parameter in block.parameters()])
    for on_cpu, on_gpu in zip(*orders, strict=True):
        assert torch.equal(on_cpu, on_gpu)
