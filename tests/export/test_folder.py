"""Folders that are read back by torch.sparse, safetensors, transformers and timm alone."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.layers.mlp import Mlp
from torch import nn

import sparsetrain as st
from sparsetrain.export import FORMATS


def block_model() -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64), nn.LayerNorm(64))
    st.prune(model, st.Magnitude(), st.Sparsity(pattern=st.Block(16, 16, 0.25)))
    return model.eval()


def two_of_four_model() -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64)).bfloat16()
    st.prune(model, st.Magnitude())
    return model.eval()


def fresh() -> Any:
    return nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64), nn.LayerNorm(64))


@pytest.mark.parametrize("form", sorted({*FORMATS} - {"semi_structured", "packed"}))
def test_weights_are_read_back_and_compute_the_same(tmp_path, form):
    model = block_model()
    x = torch.randn(3, 64)
    y = model(x)
    densities = st.save_pretrained(model, tmp_path / "out", form)
    assert densities == {"0": 0.25, "2": 0.25}
    assert torch.equal(model(x), y), "the model stays as it is"
    weights = st.load_weights(tmp_path / "out")
    torch.testing.assert_close(weights["0.weight"] @ x.T, model[0](x).T - model[0].bias[:, None])
    other = fresh()
    other.load_state_dict({name: tensor.to_dense() for name, tensor in weights.items()})
    assert torch.equal(other(x), y)


def between_two_choices_of_masks(pattern) -> Any:
    """Masks of the first step, which are no more those of the largest weights."""
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64)).bfloat16()
    st.sparsify(model, st.Sparsity(pattern=pattern, schedule=st.Schedule(mask_every=9)))
    optimizer = torch.optim.SGD(model.parameters())
    st.attach(model, optimizer)
    chosen = model[0].mask.clone()
    with torch.no_grad():
        model[0].weight.copy_(torch.randn(128, 64))
    model[0].update_mask()
    assert not torch.equal(model[0].mask, chosen), "else this proves nothing"
    model[0].mask.copy_(chosen)
    return model.eval()


@pytest.mark.parametrize("form", ["dense", "csr", "packed"])
def test_masks_that_last_several_steps_are_written_as_they_are(tmp_path, form):
    model = between_two_choices_of_masks(st.VNM(16, 2, 8))
    dtype = torch.bfloat16 if form == "packed" else None
    st.save_pretrained(model, tmp_path / "out", form, dtype=dtype)
    other = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64)).bfloat16().eval()
    if form == "packed":
        st.load_packed(other, tmp_path / "out")
    else:
        weights = st.load_weights(tmp_path / "out")
        other.load_state_dict({name: tensor.to_dense() for name, tensor in weights.items()})
        assert torch.equal(other.get_parameter("0.weight"), model[0].used_weight())
    x = torch.randn(3, 64, dtype=torch.bfloat16)
    torch.testing.assert_close(other(x), model(x))


@pytest.mark.parametrize("form", ["csr", "bsr"])
def test_a_plain_model_that_loads_weights_as_they_are_runs_the_products_of_torch_sparse(
    tmp_path, form
):
    model, other = block_model(), fresh()
    st.save_pretrained(model, tmp_path / "out", form)
    other.load_state_dict(st.load_weights(tmp_path / "out"), assign=True)
    assert other[0].weight.layout == getattr(torch, f"sparse_{form}")
    with torch.no_grad():
        for x in (torch.randn(3, 64), torch.randn(2, 3, 64)):
            torch.testing.assert_close(other(x), model(x))


def test_layers_without_blocks_beside_others_stay_dense_in_bsr(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Linear(32, 64))
    parts = {"blocks": st.Part(("0",), pattern=st.Block(16, 16, 0.5)), "2:4": st.Part(("1",))}
    st.prune(model, st.Magnitude(), st.Sparsity(parts=parts))
    assert st.save_pretrained(model, tmp_path / "out", "bsr") == {"0": 0.5}
    weights = st.load_weights(tmp_path / "out")
    assert weights["0.weight"].layout == torch.sparse_bsr
    assert torch.equal(weights["1.weight"], model.get_parameter("1.weight"))


def test_the_files_hold_the_kept_values_alone(tmp_path):
    st.save_pretrained(block_model(), tmp_path / "out", "bsr")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert tensors["0.weight.values"].shape == (8, 16, 16)
    header = json.loads((tmp_path / "out" / "sparsity.json").read_text())
    assert header["weights"]["0.weight"] == {"shape": [128, 64], "density": 0.25}


def test_densified_models_are_sparse_where_half_of_a_weight_is_zero(tmp_path):
    model = st.densify(block_model(), apply_masks=True)
    st.save_pretrained(model, tmp_path / "out", "bsr", block=(16, 16))
    assert load_file(tmp_path / "out" / "model.safetensors")["2.weight.values"].shape[1:] == (
        16,
        16,
    )
    with pytest.raises(ValueError, match=r"format=bsr: 0 has no blocks of its own: give block="):
        st.save_pretrained(model, tmp_path / "other", "bsr")
    with pytest.raises(ValueError, match=r"0.weight is 128×64, not whole blocks of 48×16"):
        st.save_pretrained(model, tmp_path / "other", "bsr", block=(48, 16))


def test_semi_structured_folders_hold_what_torch_packs(tmp_path):
    model = two_of_four_model()
    st.save_pretrained(model, tmp_path / "out", "semi_structured")
    weights = st.load_weights(tmp_path / "out")
    assert torch.equal(weights["0.weight"], model[0].used_weight())
    with pytest.raises(ValueError, match=r"0.weight is float32, and torch's semi-structured"):
        st.save_pretrained(model.float(), tmp_path / "b", "semi_structured")
    st.save_pretrained(model, tmp_path / "c", "semi_structured", dtype=torch.float16)
    assert st.load_weights(tmp_path / "c")["2.weight"].dtype == torch.float16
    with pytest.raises(ValueError, match=r"0.weight is not 2:4 along its rows in \d+ places"):
        st.save_pretrained(block_model(), tmp_path / "d", "semi_structured")


def test_a_folder_that_is_in_use_and_unknown_formats_are_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(ValueError, match="is not an empty folder: give another name"):
        st.save_pretrained(block_model(), tmp_path)
    form: Any = "csc"
    with pytest.raises(ValueError, match="format='csc': choose one of dense, coo, csr, bsr"):
        st.save_pretrained(block_model(), tmp_path / "out", form)


@pytest.mark.parametrize(
    ("form", "option", "line"),
    [
        ("bsr", {"block": 8}, r"block=8: give rows and columns, as \(64, 64\)"),
        ("bsr", {"block": (0, 8)}, r"block=\(0, 8\): give rows and columns"),
        ("csr", {"block": (8, 8)}, "format=csr: blocks are of bsr"),
        ("dense", {"dtype": "bfloat16"}, "dtype='bfloat16': give a floating-point one"),
        ("dense", {"dtype": torch.int8}, r"dtype=torch\.int8: give a floating-point one"),
        ("dense", {"config": "vit"}, "config='vit': give what config.json is to hold, as a dict"),
    ],
)
def test_an_option_that_is_none_is_answered_with_what_to_give(tmp_path, form, option, line):
    with pytest.raises(ValueError, match=line):
        st.save_pretrained(block_model(), tmp_path / "out", form, **option)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["coo", "csr", "bsr", "semi_structured"])
def test_a_model_without_zeros_is_not_written_as_a_sparse_one(tmp_path, form):
    with pytest.raises(ValueError, match=f"format={form}: the model has no sparse layer, and no"):
        st.save_pretrained(torch.nn.Sequential(torch.nn.Linear(64, 64)), tmp_path / "out", form)
    assert not (tmp_path / "out").exists()


def test_timm_builds_and_loads_its_own_models(tmp_path):
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=8, depth=1, num_classes=3
    ).eval()
    st.prune(model, st.Magnitude(), st.Sparsity(include=("*mlp*",)))
    x = torch.randn(1, 3, 16, 16)
    st.save_pretrained(model, tmp_path / "out")
    again = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    torch.testing.assert_close(again(x), model(x))


def test_a_timm_model_with_a_layer_that_json_does_not_hold_wants_a_config(tmp_path):
    model = timm.create_model("vit_tiny_patch16_224", depth=1, norm_layer=torch.nn.Identity)
    with pytest.raises(ValueError, match=r"config=None: timm cannot tell .*: give config= with"):
        st.save_pretrained(model, tmp_path / "out")
    st.save_pretrained(model, tmp_path / "out", config={"architecture": "mine"})


@pytest.mark.slow  # transformers' imports
@pytest.mark.parametrize("form", ["dense", "csr"])
def test_gpt2_is_read_by_transformers_and_by_load_weights(tmp_path, form):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=32,
        n_positions=16,
        n_embd=32,
        n_layer=1,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    st.prune(model, st.Magnitude(), st.Sparsity(include=("*mlp*",)))
    ids = torch.arange(8)[None]
    y = model(ids).logits
    st.save_pretrained(model, tmp_path / "out", form)
    if form == "dense":
        again = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "out").eval()
    else:
        again = transformers.GPT2LMHeadModel(config).eval()
        weights = st.load_weights(tmp_path / "out")
        again.load_state_dict({name: tensor.to_dense() for name, tensor in weights.items()})
    torch.testing.assert_close(again(ids).logits, y)
    # Its Conv1D layers, which nobody pruned here, are sparse ones too:
    assert len(st.save_pretrained(again, tmp_path / "b", "bsr", block=(8, 32))) == 2
    values = st.load_weights(tmp_path / "b")["transformer.h.0.mlp.c_fc.weight"].values()
    assert values.shape[1:] == (32, 8)
    assert len(st.check_tensorrt(again)) == 2


@pytest.mark.slow  # transformers' imports
def test_a_language_model_keeps_its_class_its_dtype_and_how_it_generates(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    model.generation_config.eos_token_id = [3, 5]
    st.prune(model, st.Magnitude())
    st.save_pretrained(model, tmp_path / "out", dtype=torch.bfloat16)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert again.dtype == torch.bfloat16
    assert again.config.architectures == ["LlamaForCausalLM"]
    assert again.generation_config.eos_token_id == [3, 5]


def test_tensorrt_takes_weights_that_are_two_of_four_along_input_channels():
    model = two_of_four_model()
    assert st.check_tensorrt(model) == ("0", "2")
    with pytest.raises(ValueError, match=r"0: \d+ of 2048 fours along the input channels"):
        st.check_tensorrt(block_model())
    with pytest.raises(ValueError, match="no sparse layer, and none whose weight is half zero"):
        st.check_tensorrt(fresh())
    with pytest.raises(ValueError, match=r"include='02': give a tuple of names, as \('02',\)"):
        st.check_tensorrt(model, include="02")  # pyright: ignore


def test_tensorrt_looks_at_convolutions_along_their_input_channels():
    model: Any = nn.Sequential(nn.Conv2d(8, 4, 4))
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].weight[:, ::2] = 0
    assert st.check_tensorrt(model) == ("0",)
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].weight[..., ::2] = 0  # along the width
    with pytest.raises(ValueError, match=r"^0: 64 of 128 fours along the input channels"):
        st.check_tensorrt(model)


@pytest.mark.slow  # transformers' imports
@pytest.mark.parametrize("include", [("*",), ("*layers.0*",)], ids=["all", "the first"])
def test_squared_relu_of_2_of_4_activations_is_in_a_transformers_config(tmp_path, include):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        image_size=16, patch_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config)
    st.sparsify(model, st.Sparsity(include, activation=st.Activation24()))
    whole = include == ("*",)
    line = r"config\.json cannot name the squared ReLU of vit\.layers\.0\.mlp\.activation_fn: put"
    with nullcontext() if whole else pytest.warns(UserWarning, match=line):
        st.save_pretrained(model, tmp_path / "out")
    st.densify(model.eval(), apply_masks=True)
    assert model.config.hidden_act == "gelu"
    again = transformers.ViTForImageClassification.from_pretrained(tmp_path / "out").eval()
    assert again.config.hidden_act == ("relu2" if whole else "gelu")
    if not whole:
        put_squared_relu(again, tmp_path / "out")
    x = torch.linspace(-1, 1, 768).reshape(1, 3, 16, 16)
    torch.testing.assert_close(again(x).logits, model(x).logits)


def test_squared_relu_of_a_timm_model_is_told_and_put_back_where_sparsity_json_says(tmp_path):
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, embed_dim=48, depth=5, num_classes=7
    )
    st.sparsify(model, st.Sparsity(activation=st.Activation24()))
    with pytest.warns(
        UserWarning, match=r"squared ReLU of blocks\.0\.mlp\.act, .* and 2 more: put"
    ):
        st.save_pretrained(model, tmp_path / "out")
    st.densify(model.eval(), apply_masks=True)
    again = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    x = torch.linspace(-1, 1, 3072).reshape(1, 3, 32, 32)
    assert not torch.allclose(again(x), model(x))
    put_squared_relu(again, tmp_path / "out")
    torch.testing.assert_close(again(x), model(x))


def test_a_folder_whose_config_the_caller_gives_and_a_packed_one_warn_of_nothing(tmp_path):
    model = nn.Sequential()
    model.mlp = Mlp(64, 128)
    st.sparsify(model, st.Sparsity(activation=st.Activation24()))
    st.save_pretrained(model, tmp_path / "given", config={"act": "squared ReLU"})
    st.save_pretrained(model, tmp_path / "packed", "packed", dtype=torch.bfloat16)


def put_squared_relu(model: nn.Module, folder: Path) -> None:
    """What docs/export.md says."""
    for name in json.loads((folder / "sparsity.json").read_text())["squared_relu"]:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, SquaredReLU())


class SquaredReLU(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.relu().square()
