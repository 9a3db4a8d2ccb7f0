"""timm models by name, and xFormers' attention in them."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning_helpers import tiny_vit
from safetensors.torch import save_file
from timm.layers.attention import Attention

from sparsetrain.lightning import attention, build_network
from sparsetrain.lightning.attention import XformersAttention, use_xformers


def test_a_model_takes_its_size_classes_and_options():
    network = tiny_vit()
    assert network(torch.zeros(2, 3, 8, 8)).shape == (2, 10)
    assert len(network.blocks) == 2
    assert network.blocks[1].drop_path1.drop_prob == pytest.approx(0.2)


def test_an_unknown_model_is_refused_with_the_nearest_names():
    with pytest.raises(
        ValueError, match=r"model\.name='vit_base_patch16_24': .*vit_base_patch16_224"
    ):
        build_network("vit_base_patch16_24", 224, 10)


def test_a_name_like_no_model_at_all_says_where_to_look():
    with pytest.raises(ValueError, match=r"model\.name='§§': .* see timm\.list_models\(\)"):
        build_network("§§", 224, 10)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"depths": 2}, "model.options.depths is no argument of VisionTransformer: did you mean"),
        ({"embed_dim": 30, "num_heads": 4}, "does not take .*dim should be divisible by num_heads"),
    ],
)
def test_options_that_the_model_does_not_take_are_named(options, said):
    with pytest.raises(ValueError, match=said):
        build_network("vit_tiny_patch16_224", 8, 10, options={"patch_size": 4, **options})


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (
            {"embed_dim": 6, "depth": 1},
            r"blocks\.1\.norm1\.weight is absent there, blocks\.1\.norm1\.bias is absent there, "
            r"blocks\.1\.attn\.qkv\.weight is absent there and 28 more; give the model\.\*",
        ),
        (
            {"embed_dim": 6},
            r"cls_token is \(1, 1, 6\) there and \(1, 1, 12\) here, pos_embed is .* and 28 more; ",
        ),
        (
            {"qkv_bias": False},
            r"blocks\.0\.attn\.qkv\.bias is absent there, blocks\.1\.attn\S+ is absent there; give",
        ),
        ({"init_values": 0.1}, r"blocks\.0\.ls1\.gamma is absent here, .* and 1 more; give"),
    ],
)
def test_weights_of_another_model_are_told_by_the_first_three_tensors(tmp_path, other, said):
    file, options = tmp_path / "vit.safetensors", {"embed_dim": 12, "depth": 2, "patch_size": 4}
    written = build_network("vit_tiny_patch16_224", 8, 10, options={**options, **other})
    save_file(written.state_dict(), file)
    with pytest.raises(ValueError, match=rf"checkpoint_path={file} is of another model: {said}"):
        build_network(
            "vit_tiny_patch16_224", 8, 10, options={**options, "checkpoint_path": str(file)}
        )


def test_an_unknown_attention_is_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"model\.attention='flash': choose one of sdpa, xformers"):
        build_network("vit_tiny_patch16_224", 224, 10, attention="flash")


def unavailable():
    try:
        attention.load_memory_efficient_attention()
    except ValueError as error:
        return str(error)
    return None


WHY_NOT = unavailable()


@pytest.mark.skipif(WHY_NOT is None, reason="xFormers loads here")
def test_an_xformers_that_does_not_load_says_why():
    with pytest.raises(ValueError, match=r"model\.attention=xformers: xFormers c") as error:
        build_network("vit_tiny_patch16_224", 224, 10, attention="xformers")
    text = str(error.value)
    assert "Cause: " in text or "cannot be imported: " in text
    assert "\n" not in text


def test_an_xformers_for_another_torch_says_which_pair_fits():
    broken: Any = RuntimeError("long")
    broken.build_info = SimpleNamespace(torch_version="2.10.0+cu128")
    broken.__cause__ = OSError("libcudart.so.12: cannot open")
    text = attention._misfit(broken)
    assert f"was built for torch 2.10.0+cu128 and torch {torch.__version__} is installed" in text
    assert "Cause: libcudart.so.12: cannot open. Use model.attention=sdpa, install torch==" in text


def sdpa(q, k, v, p=0.0, scale=None):
    """xFormers' function by PyTorch's: [B, M, H, K] in and out."""
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, dropout_p=p, scale=scale).transpose(1, 2)


@pytest.fixture
def stand_in(monkeypatch):
    monkeypatch.setattr(attention, "load_memory_efficient_attention", lambda: sdpa)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_xformers_without_a_cuda_device_is_refused_with_what_to_use(stand_in):
    with pytest.raises(ValueError, match=r"CUDA devices only .* use model\.attention=sdpa"):
        use_xformers(tiny_vit())


def test_a_network_without_such_attention_is_refused(stand_in, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ValueError, match="no timm Attention layer to swap"):
        use_xformers(torch.nn.Sequential(torch.nn.Linear(4, 4)))


def test_every_attention_is_swapped_on_its_own_parameters(stand_in, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    network = tiny_vit()
    before = dict(network.named_parameters())
    use_xformers(network)
    assert all(type(block.attn) is XformersAttention for block in network.blocks)
    after = dict(network.named_parameters())
    assert before.keys() == after.keys()
    assert all(after[name] is parameter for name, parameter in before.items())


def pair(**options):
    """timm's attention and ours, on the same parameters; norms are not the identity."""
    torch.manual_seed(0)
    dense = Attention(32, num_heads=4, **options)
    for name, parameter in dense.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 2.0)
    ours = attention.with_class(dense, XformersAttention)
    return dense, ours


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"qkv_bias": True, "qk_norm": True, "norm_layer": torch.nn.LayerNorm},
        {"scale_norm": True, "norm_layer": torch.nn.LayerNorm},
    ],
)
def test_xformers_attention_is_timms_and_so_are_its_gradients(stand_in, options, fused):
    dense, ours = pair(**options)
    dense.__dict__["fused_attn"] = fused
    x = torch.randn(3, 7, 32)
    results = []
    for layer in (dense, ours):
        leaf = x.clone().requires_grad_()
        y = layer(leaf)
        grads = torch.autograd.grad(y.square().sum(), [leaf, *layer.parameters()])
        results.append([y, *grads])
    for got, expected in zip(*reversed(results), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_attention_dropout_is_on_in_training_only(stand_in):
    _, ours = pair(attn_drop=0.5)
    x = torch.randn(2, 7, 32)
    assert not torch.equal(ours(x), ours(x))
    ours.eval()
    assert torch.equal(ours(x), ours(x))


def test_masked_attention_is_refused(stand_in):
    _, ours = pair()
    with pytest.raises(ValueError, match="masked attention is not supported"):
        ours(torch.zeros(1, 3, 32), attn_mask=torch.ones(3, 3, dtype=torch.bool))


@pytest.mark.gpu
@pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
def test_xformers_attention_is_as_accurate_as_pytorchs_on_a_gpu():
    dense, ours = (layer.cuda().bfloat16() for layer in pair(qkv_bias=True))
    x = torch.randn(3, 197, 32, device="cuda", dtype=torch.bfloat16)
    oracle = dense.float()(x.float())
    dense.bfloat16()
    error = (ours(x).float() - oracle).abs().max()
    assert error <= 2 * (dense(x).float() - oracle).abs().max() + 1e-5


@pytest.mark.parametrize(
    "options",
    [
        {"checkpoint_path": "x.pth"},
        {"checkpoint_path": "x.safetensors.npy"},
        {"pretrained": True, "pretrained_cfg": {"file": "x.pth"}},
        {"pretrained": True, "pretrained_cfg_overlay": {"file": "x.pth", "custom_load": True}},
    ],
)
def test_weights_that_could_be_a_pickle_are_not_read(options):
    with pytest.raises(ValueError, match=r"model\.options\.(checkpoint_path|pretrained_cfg)"):
        build_network("vit_tiny_patch16_224", 16, 10, options=options)


def test_convolutions_make_the_tokens():
    small = {"patch_size": 4, "embed_dim": 64, "depth": 1, "num_heads": 2}
    network: Any = build_network(
        "vit_tiny_patch16_224", 32, 10, tokenizer="convolutions", options=small
    )
    tokens = network.patch_embed(torch.rand(2, 3, 32, 32))
    assert tokens.shape == (2, 64, 64)
    assert tokens.is_contiguous(), "the next layers would copy them"
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [("convnet", 4, "choose one of patches, convolutions"), ("convolutions", 6, "give 2, 4, 8")],
)
def test_what_makes_no_tokens_is_one_line(name, size, message):
    with pytest.raises(ValueError, match=message):
        build_network("vit_tiny_patch16_224", 48, 10, tokenizer=name, options={"patch_size": size})
