"""Several rules: the first part whose globs name a layer holds for it."""

from typing import Any

import pytest
import torch
from nn_checks import Mlp
from torch import nn

import sparsetrain as st
from sparsetrain.patterns import NM
from sparsetrain.recipe import compose, instantiate_sparsity


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


@pytest.mark.filterwarnings("ignore:Sparse (BSR|CSR) tensor support is in beta")
def test_the_mixed_recipe_is_in_every_layer_what_its_part_says():
    torch.manual_seed(0)
    blocks: Any = nn.ModuleDict({"mlp": Mlp(16, 32), "attn": nn.Linear(16, 32)})
    network: Any = nn.ModuleDict({"blocks": blocks, "head": nn.Linear(32, 12)})
    words = [f"sparsity.parts.attention.pattern.{side}=4" for side in ("rows", "columns")]
    sparsity = instantiate_sparsity(compose(["recipe=vit_tiny_mixed", *words]))
    report = st.sparsify(network, sparsity)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    st.attach(network, optimizer, total_steps=20)
    x = torch.randn(8, 16)
    for _ in range(20):
        network.head(blocks.attn(blocks.mlp(x))).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    stats = {row.name: row for row in st.inspect(network)}
    assert {row.name: row.runs for row in report.converted} == {
        "blocks.mlp.fc1": "2:4 weight, exact, SR-STE 2e-05",
        "blocks.mlp.fc2": "2:4 weight, exact, SR-STE 2e-05",
        "blocks.attn": "4×4-block 0.5 weight, STE",
        "head": "unstructured 0.2 weight, STE",
    }
    assert stats["blocks.mlp.fc1"].density == stats["blocks.mlp.fc2"].density == 0.5
    assert stats["blocks.attn"].density == 0.5
    assert stats["head"].density == round(0.2 * 12 * 32) / (12 * 32)
    st.densify(network, apply_masks=True)
    for name, row in stats.items():
        weight = network.get_submodule(name).weight.detach()
        assert weight.count_nonzero() == round(row.density * weight.numel())
    assert blocks.attn.weight.detach().to_sparse_bsr((4, 4)).values().shape[0] == 16
    assert NM(2, 4).holds(blocks.mlp.fc1.weight.detach().T)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("weight", st.SRSTE()),
        ("activation", st.Activation24()),
        ("pattern", st.Block(4, 4, 0.5)),
        ("selection", st.Selection("greedy")),
        ("format", st.FP8()),
    ],
)
def test_what_no_part_would_take_is_refused_beside_parts(name, value):
    words: Any = {name: value}
    with pytest.raises(ValueError, match=rf"^{name}=.* beside parts: .* give it to those of mlp"):
        st.Sparsity(parts={"mlp": st.Part(("*",))}, **words)


@pytest.mark.parametrize("parts", [[st.Part()], {"mlp": {"include": ("*",)}}], ids=str)
def test_parts_that_are_none_are_answered_with_what_to_give(parts):
    with pytest.raises(ValueError, match=r"^parts=.*: give a dict of them by name, as {'mlp': Pa"):
        st.Sparsity(parts=parts)


def test_include_and_exclude_beside_parts_bound_all_of_them():
    layers = model()
    parts = {"rest": st.Part(("*",), ("other",)), "other": st.Part(weight=st.SRSTE(decay=0.1))}
    report = st.sparsify(layers, st.Sparsity(("mlp", "other", "attn"), ("attn",), parts=parts))
    assert {row.name: row.runs for row in report.converted} == {
        "mlp": "2:4 weight, exact, STE",
        "other": "2:4 weight, exact, SR-STE 0.1",
    }
    reasons = {row.name: row.reason for row in report.skipped}
    assert reasons == {"attn": "excluded", "head": "not named by include"}
    with pytest.raises(ValueError, match="include: 'hed' matches no linear layer"):
        st.sparsify(model(), st.Sparsity(("hed",), parts=parts))
