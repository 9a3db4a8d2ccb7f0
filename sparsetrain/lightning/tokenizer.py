"""The convolutional tokenizer of Compact Transformers (CCT, arXiv 2104.05704), for timm's ViTs."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

CHANNELS = 64


class ConvTokenizer(nn.Module):
    """Images [B, C, H, W] to tokens [B, H/P · W/P, D]; timm's ViTs take it as their `embed_layer`.

    A 3 × 3 convolution, a ReLU and a maximum over 3 × 3 with stride 2 for each factor 2 of P: the
    first ones to 64 channels, the last to D.

    Raises ValueError for a patch size P that is no power of two, or 1.
    """

    def __init__(
        self,
        img_size: int,
        patch_size: int,
        in_chans: int,
        embed_dim: int,
        bias: bool = True,
        dynamic_img_pad: bool = False,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        # `bias` and `dynamic_img_pad` are timm's; the convolutions have no bias, as in CCT.
        super().__init__()
        depth = patch_size.bit_length() - 1
        if depth < 1 or patch_size != 2**depth:
            raise ValueError(
                f"model.options.patch_size={patch_size}: model.tokenizer=convolutions halves the "
                "image with each of its convolutions; give 2, 4, 8 or 16"
            )
        self.patch_size = (patch_size, patch_size)
        self.grid_size = (img_size // patch_size, img_size // patch_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        widths = [in_chans, *[CHANNELS] * (depth - 1), embed_dim]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            convolution = nn.Conv2d(
                before, after, 3, padding=1, bias=False, device=device, dtype=dtype
            )
            nn.init.kaiming_normal_(convolution.weight)
            layers += [convolution, nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        # Channels last: cuDNN's convolutions want it, and tokens lie one after the other.
        images = images.contiguous(memory_format=torch.channels_last)
        return self.layers(images).flatten(2).transpose(1, 2)
