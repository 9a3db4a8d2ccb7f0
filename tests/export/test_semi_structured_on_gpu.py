"""A folder for semi-structured tensors is packed and multiplied by PyTorch on a GPU."""

from typing import Any

import pytest
import torch
from torch import nn

import sparsetrain as st

pytestmark = pytest.mark.gpu


@pytest.mark.filterwarnings("ignore:.*SparseSemiStructuredTensor:UserWarning")
def test_weights_that_torch_packs_give_the_outputs_of_the_model(tmp_path):
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Linear(128, 256), nn.GELU(), nn.Linear(256, 128)).half().cuda()
    st.prune(model, st.Magnitude(), engine="masked")
    x = torch.randn(64, 128, dtype=torch.float16, device="cuda")
    st.save_pretrained(model, tmp_path / "out", "semi_structured")
    weights = st.load_weights(tmp_path / "out")
    other: Any = nn.Sequential(nn.Linear(128, 256), nn.GELU(), nn.Linear(256, 128)).half()
    other.load_state_dict(weights)
    other.cuda()
    for layer in (other[0], other[2]):
        packed = torch.sparse.to_sparse_semi_structured(layer.weight.detach())
        layer.weight = nn.Parameter(packed, requires_grad=False)
    with torch.no_grad():
        torch.testing.assert_close(other(x), model(x), rtol=1e-2, atol=1e-2)
