"""sparsify on timm's transformers, tiny and random: what is converted, and that it trains."""

from typing import Any

import pytest
import timm
import torch
from nn_checks import assert_sparse_both_ways, assert_trains, normal, seeded
from timm.models.mlp_mixer import MlpMixer

from sparsetrain.methods import STE, Activation24
from sparsetrain.nn import SparseMlp, Sparsity, densify, sparse_linears, sparsify
from sparsetrain.select import EXACT, ROW

BLOCK = ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]
TINY: dict[str, Any] = {
    "img_size": 32,
    "embed_dim": 32,
    "depth": 1,
    "num_heads": 4,
    "num_classes": 12,
}
SWIN: dict[str, Any] = {
    "img_size": 32,
    "window_size": 4,
    "embed_dim": 32,
    "depths": (1, 1),
    "num_heads": (2, 4),
    "num_classes": 12,
}
EVA: dict[str, Any] = {**TINY, "img_size": 28, "embed_dim": 48}


def create(name):
    if name == "mixer":
        return seeded(MlpMixer(12, img_size=32, patch_size=8, embed_dim=32, num_blocks=1))
    arguments = SWIN if name.startswith("swin") else EVA if name.startswith("eva") else TINY
    return seeded(timm.create_model(name, **arguments))


def block(*children, prefix="blocks.0."):
    return [prefix + child for child in children]


def swin(*children):
    stages = [block(*children, prefix=f"layers.{i}.blocks.0.") for i in range(2)]
    return [*stages[0], "layers.1.downsample.reduction", *stages[1], "head.fc"]


SPARSE = {
    "vit_tiny_patch16_224": [*block(*BLOCK), "head"],
    "deit3_small_patch16_224": [*block(*BLOCK), "head"],
    # Their qkv adds its bias itself.
    "beit_base_patch16_224": [*block(*BLOCK[1:]), "head"],
    "eva02_tiny_patch14_224": [*block(*BLOCK[1:]), "head"],
    # SwiGLU.
    "eva02_base_patch14_224": [
        *block("attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.proj"),
        *block("mlp.fc1_g", "mlp.fc1_x", "mlp.fc2"),
        "head",
    ],
    "swin_tiny_patch4_window7_224": swin(*BLOCK),
    "mixer": [
        *block("mlp_tokens.fc1", "mlp_tokens.fc2", "mlp_channels.fc1", "mlp_channels.fc2"),
        "head",
    ],
}


def slow_but(*names):
    """Every model that is expected to be sparse, all but these marked slow."""
    return [n if n in names else pytest.param(n, marks=pytest.mark.slow) for n in SPARSE]


SWIN2 = pytest.param("swinv2_tiny_window8_256", marks=pytest.mark.slow)


def image(name):
    return normal(2, 3, *(28, 28) if name.startswith("eva") else (32, 32), seed=1)


@pytest.mark.parametrize("name", slow_but("vit_tiny_patch16_224"))
def test_the_expected_layers_are_sparse_both_ways_and_train(name):
    model = create(name)
    dense = model(image(name)).detach()
    sparsify(model, Sparsity())
    assert list(sparse_linears(model)) == SPARSE[name]
    assert_sparse_both_ways(model)
    assert (model(image(name)) - dense).abs().max() > 1e-6
    assert_trains(model, image(name))


@pytest.mark.parametrize("name", [*slow_but("vit_tiny_patch16_224"), SWIN2])
def test_every_sparse_layer_is_really_called(name):
    # A parent that reads the weight would run dense without a word.
    model, called = create(name), set()
    sparsify(model, Sparsity())
    for layer_name, layer in sparse_linears(model).items():
        layer.register_forward_hook(lambda *_, n=layer_name: called.add(n))
    model(image(name))
    assert called == set(sparse_linears(model))


@pytest.mark.parametrize(
    "name",
    [
        "beit_base_patch16_224",
        pytest.param("eva02_tiny_patch14_224", marks=pytest.mark.slow),
        SWIN2,
    ],
)
def test_a_qkv_whose_weight_is_read_directly_stays_dense_with_the_reason(name):
    skipped = {row.name: row.reason for row in sparsify(create(name), Sparsity()).skipped}
    qkv = {n: reason for n, reason in skipped.items() if n.endswith("qkv")}
    assert qkv
    assert all("reads its weight without calling it" in reason for reason in qkv.values())


@pytest.mark.parametrize("weight", [None, STE()])
@pytest.mark.parametrize("selection", [EXACT, ROW], ids=str)
def test_activations_of_a_vit_are_2_of_4_and_train(weight, selection):
    name = "vit_tiny_patch16_224"
    model = create(name)
    sparsity = Sparsity(include=("blocks.*",), weight=weight, activation=Activation24(selection))
    report = sparsify(model, sparsity)
    assert isinstance(model.blocks[0].mlp, SparseMlp)
    assert [row.shape for row in report.converted if row.name.endswith("mlp")] == [(32, 128, 32)]
    assert list(sparse_linears(model)) == ([] if weight is None else block(*BLOCK))
    assert_trains(model, image(name))


@pytest.mark.parametrize("name", ["eva02_base_patch14_224", "eva02_tiny_patch14_224"])
def test_gated_mlps_cannot_take_activations(name):
    with pytest.raises(ValueError, match="no MLP can take it"):
        sparsify(create(name), Sparsity(weight=None, activation=Activation24()))


def test_dropout_inside_the_mlps_is_refused_with_its_name():
    model = timm.create_model("vit_tiny_patch16_224", **TINY, proj_drop_rate=0.1)
    with pytest.raises(ValueError, match=r"blocks\.0\.mlp: it drops out between act and fc2"):
        sparsify(model, Sparsity(weight=None, activation=Activation24()))


@pytest.mark.parametrize("activation", [None, Activation24()])
def test_a_checkpoint_loads_into_a_plain_timm_model_and_back(activation):
    model, plain = create("vit_tiny_patch16_224"), create("vit_tiny_patch16_224")
    sparsify(model, Sparsity(activation=activation))
    plain.load_state_dict(model.state_dict(), strict=True)
    model.load_state_dict(plain.state_dict(), strict=True)
    assert list(model.state_dict()) == list(plain.state_dict())


def test_a_trained_vit_exports_dense_and_gives_the_same_logits():
    model = create("vit_tiny_patch16_224").eval()
    sparsify(model, Sparsity())
    expected = model(image("vit"))
    densify(model, apply_masks=True)
    assert sparse_linears(model) == {}
    torch.testing.assert_close(model(image("vit")), expected)


@pytest.mark.parametrize("act", ["gelu", "gelu_tanh", "silu", "quick_gelu"])
def test_an_activation_that_timm_makes_by_name_is_recognised_or_named(act):
    report = sparsify(
        timm.create_model("vit_tiny_patch16_224", **TINY, act_layer=act), Sparsity(), "native"
    )
    known = {"silu": "SiLU", "quick_gelu": "QuickGELU"}
    expected = "1 MLP: fc1, GELU and fc2 as one function, until one of them is changed."
    if act in known:
        why = f"its activation is {known[act]}, not GELU"
        expected = f"1 MLP: not as one function, so slower: {why}."
    assert report.fused == expected
