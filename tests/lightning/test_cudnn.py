"""fit leaves out cuDNN's attention where its gradients may be NaN."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.compiler import config as compiler_config

from sparsetrain.lightning import cudnn
from sparsetrain.lightning.network import build_network


def vit(img_size, **options) -> nn.Module:
    small = {"patch_size": 4, "depth": 1, "embed_dim": 8, "num_heads": 1}
    return build_network("vit_tiny_patch16_224", img_size, 10, options=small | options)


@pytest.fixture
def gpu(monkeypatch):
    """A GPU machine with the cuDNN of torch 2.11; attention's flags are put back."""
    enabled = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91900)
    tag = compiler_config.cache_key_tag
    yield monkeypatch
    compiler_config.cache_key_tag = tag
    torch.backends.cuda.enable_cudnn_sdp(enabled)


@pytest.mark.parametrize("tokens", [64, 192, 320, 576, 704])
def test_half_a_tile_over_whole_ones_is_at_risk(tokens):
    assert cudnn.at_risk({tokens, 197}) == [tokens]


def test_a_network_of_64_tokens_does_without_cudnn_and_says_so(gpu):
    network = vit(32, class_token=False, global_pool="avg")
    assert cudnn.attention_lengths(network, 32) == {64}
    (line,) = cudnn.leave_out_cudnn(network, 32)
    assert line.startswith("attention without cuDNN 91900: of 64 tokens")
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert compiler_config.cache_key_tag, "compiled code with cuDNN is in the cache"
    assert cudnn.leave_out_cudnn(network, 32) == ()


def test_a_class_token_more_leaves_cudnn_alone(gpu):
    assert cudnn.attention_lengths(vit(32), 32) == {65}
    assert cudnn.leave_out_cudnn(vit(32), 32) == ()
    assert torch.backends.cuda.cudnn_sdp_enabled()


def test_a_cudnn_that_is_right_is_left_alone(gpu):
    gpu.setattr(torch.backends.cudnn, "version", lambda: cudnn.FIXED)
    assert cudnn.leave_out_cudnn(vit(32, class_token=False, global_pool="avg"), 32) == ()
    assert torch.backends.cuda.cudnn_sdp_enabled()


@pytest.mark.gpu
@pytest.mark.parametrize("tokens", [64, 65, 192, 197, 256, 257])
def test_gradients_of_what_is_not_left_out_are_finite(tokens):
    if cudnn.at_risk({tokens}) and (torch.backends.cudnn.version() or 0) < cudnn.FIXED:
        pytest.skip("left out")
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, tokens, 64, device="cuda", dtype=torch.bfloat16)
    q, k = 0.1 * q, 0.1 * k
    q[..., 0], k[..., 0] = 1.0, -120 * 8
    leaves: Any = [x.requires_grad_() for x in (q, k, v)]
    out = nn.functional.scaled_dot_product_attention(*leaves)
    out.backward(torch.randn_like(out))
    assert all(x.grad.isfinite().all() for x in leaves)
