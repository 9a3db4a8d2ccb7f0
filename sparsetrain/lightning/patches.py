"""The convolution that cuts an image into patches, as one matrix product."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

FEW_CHANNELS = 4
"""An image has at most these. cuDNN writes such images in another layout before it convolves
(docs/log.md); a matrix product does not need that."""


class PatchConv2d(nn.Conv2d):
    """An `nn.Conv2d` whose stride is its kernel: each output pixel is a product of a patch of its
    own. Parameters, state dict and result are those of the convolution, up to rounding."""

    def forward(self, input: Tensor) -> Tensor:
        B, C, H, W = input.shape
        p, q = self.kernel_size
        h, w = H // p, W // q
        cut = input[..., : h * p, : w * q].reshape(B, C, h, p, w, q)
        patches = cut.permute(0, 2, 4, 1, 3, 5).reshape(B, h * w, C * p * q)
        tokens = F.linear(patches, self.weight.flatten(1), self.bias)
        return tokens.transpose(1, 2).unflatten(2, (h, w))


def multiply_patches(network: nn.Module) -> None:
    """Make a `PatchConv2d` of each convolution of images into patches, in place."""
    for module in network.modules():
        if type(module) is nn.Conv2d and _cuts_patches(module):
            module.__class__ = PatchConv2d


def _cuts_patches(conv: nn.Conv2d) -> bool:
    return (
        conv.in_channels <= FEW_CHANNELS
        and conv.kernel_size == conv.stride
        and conv.padding in ((0, 0), "valid")
        and conv.dilation == (1, 1)
        and conv.groups == 1
    )
