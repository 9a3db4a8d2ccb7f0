"""Several rules: the first part whose globs name a layer holds for it."""

import pytest
import torch
from torch import nn

import sparsetrain as st


def model():
    return nn.ModuleDict({name: nn.Linear(16, 16) for name in ("mlp", "attn", "head", "other")})


def test_each_layer_follows_the_first_part_that_names_it():
    layers = model()
    parts = {
        "head": st.Part(("head",), weight=None),
        "mlp": st.Part(("mlp",), weight=st.SRSTE(decay=0.1)),
        "rest": st.Part(("*",), ("other",), selection=st.Selection("row")),
    }
    report = st.sparsify(layers, st.Sparsity(parts=parts))
    assert {row.name: row.runs for row in report.converted} == {
        "mlp": "2:4 weight, exact, SR-STE 0.1",
        "attn": "2:4 weight, row, STE",
    }
    reasons = {row.name: row.reason for row in report.skipped}
    assert reasons == {"head": "its part is dense", "other": "excluded"}


def test_parts_train_resume_and_densify_as_one_model():
    layers = model()
    parts = {
        "mlp": st.Part(("mlp",), weight=st.SSTE()),
        "attn": st.Part(("attn",), selection=st.Selection("greedy")),
    }
    st.sparsify(layers, st.Sparsity(parts=parts))
    optimizer = torch.optim.SGD(layers.parameters(), 0.1)
    attached = st.attach(layers, optimizer, total_steps=2)
    x = torch.randn(4, 16)
    torch.stack([layer(x).square().mean() for layer in layers.values()]).sum().backward()
    optimizer.step()
    state = attached.state_dict()
    assert state["mlp"]["scale"] is not None
    assert state["attn"]["scale"] is None
    st.load_sparse_state(layers, state)
    layers.eval()
    before = {name: layer(x) for name, layer in layers.items()}
    st.densify(layers, apply_masks=True)
    assert all(torch.equal(before[name], layer(x)) for name, layer in layers.items())


def test_a_glob_of_any_part_that_matches_nothing_is_an_error():
    parts = {"mlp": st.Part(("mlp",)), "typo": st.Part(("hed",))}
    with pytest.raises(ValueError, match="include: 'hed' matches no linear layer"):
        st.sparsify(model(), st.Sparsity(parts=parts))
