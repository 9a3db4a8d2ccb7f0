"""Pruning on a GPU gives what it gives on a CPU."""

import pytest
import torch
from torch import nn

import sparsetrain as st

pytestmark = pytest.mark.gpu

METHODS = [st.Magnitude(), st.WeightNorm(), st.Wanda(), st.SparseGPT()]
KINDS = [
    st.Sparsity(),
    st.Sparsity(selection=st.Selection("row")),
    st.Sparsity(pattern=st.Block(16, 16, 0.25)),
    st.Sparsity(pattern=st.Unstructured(0.2)),
]


def pruned(method, sparsity, device):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(128, 256), nn.GELU(), nn.Linear(256, 64)).double().to(device)
    batches = [torch.randn(64, 128, dtype=torch.float64) for _ in range(4)]
    st.prune(model, method, sparsity, calibration=batches, refit=True)
    return model


@pytest.mark.parametrize("sparsity", KINDS, ids=lambda s: f"{s.pattern} {s.selection}")
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_masks_and_weights_are_those_of_a_cpu(method, sparsity):
    there, here = pruned(method, sparsity, "cuda"), pruned(method, sparsity, "cpu")
    for one, other in zip(there.parameters(), here.parameters(), strict=True):
        assert one.device.type == "cuda"
        assert torch.equal(one.cpu() == 0, other == 0)
        torch.testing.assert_close(one.cpu(), other, rtol=1e-6, atol=1e-8)
