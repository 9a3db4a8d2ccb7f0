"""Patches by a matrix product, against the convolution that they stand for."""

import copy
from typing import Any

import pytest
import timm
import torch
from torch import nn

from sparsetrain.lightning import build_network
from sparsetrain.lightning.patches import PatchConv2d, multiply_patches


def product_of(conv):
    wrapped = nn.Sequential(copy.deepcopy(conv))
    multiply_patches(wrapped)
    assert type(wrapped[0]) is PatchConv2d
    return wrapped[0]


@pytest.mark.parametrize("size", [(8, 8), (12, 8), (11, 14)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_the_product_is_the_convolution(size, bias):
    conv = nn.Conv2d(3, 5, (4, 2), (4, 2), bias=bias, dtype=torch.float64)
    product = product_of(conv)
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    expected, found = conv(x), product(y)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    seed = torch.randn_like(expected)
    expected.backward(seed)
    found.backward(seed)
    for a, b in zip((x, *conv.parameters()), (y, *product.parameters()), strict=True):
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(3, 4, 4, 2),
        nn.Conv2d(3, 4, 4, 4, padding=1),
        nn.Conv2d(3, 6, 4, 4, groups=3),
        nn.Conv2d(3, 4, 4, 4, dilation=2),
        nn.Conv2d(64, 128, 2, 2),
        nn.ConvTranspose2d(3, 4, 4, 4),
    ],
    ids=["overlapping", "padded", "grouped", "dilated", "of many channels", "transposed"],
)
def test_other_convolutions_stay(conv):
    kind = type(conv)
    multiply_patches(nn.Sequential(conv))
    assert type(conv) is kind


def test_the_network_of_a_recipe_is_timms_in_all_but_rounding():
    options: Any = {"depth": 1, "embed_dim": 32, "num_heads": 2}
    network: Any = build_network("vit_tiny_patch16_224", 32, 10, options=options)
    other = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=10, **options)
    other.load_state_dict(network.state_dict())
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(network(x), other(x))
    assert type(network.patch_embed.proj) is PatchConv2d
