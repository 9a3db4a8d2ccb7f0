"""STE: the straight-through estimator.

What it does    trains with W ⊙ m; the gradient of W ⊙ m is given to all of W
When            the plain baseline; enough with a dense tail of 20–30 % of the steps
Cost            choosing the mask; none with a frozen one
Published       DINOv2 ViT-L, ImageNet-1k: always sparse 82.3, first 70 % sparse
                82.7, dense 82.8 (PyTorch blog, 2024)
Source          Bengio et al. 2013, arXiv 1308.3432; for 2:4, Zhou et al., ICLR 2021
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparsetrain.methods.hooks import Hooks
from sparsetrain.ops import mask24
from sparsetrain.products import BOTH, Forms, Packed, Product, pack
from sparsetrain.select import Selection


@dataclass(frozen=True)
class STE(Hooks):
    """Sparse weights in the products, straight-through gradients (Zhou et al., ICLR 2021).

    mvue: grad weight from an unbiased 2:4 sample of the output gradient along tokens.
    """

    mvue: bool = field(default=False, kw_only=True)

    def pack(
        self,
        weight: Tensor,
        mask: Tensor | None,
        scale: Tensor | None,
        selection: Selection,
        product: Product,
        dtype: torch.dtype,
        forms: Forms = BOTH,
    ) -> Packed:
        """The weight [O, I] as its products read it, in their dtype. mask: bits, or None to choose
        it from the weight."""
        return pack(weight, mask, selection, product, dtype, forms)

    def weight24(self, weight: Tensor, mask: Tensor, scale: Tensor | None) -> Tensor:
        """The weight that the products use, dense with zeros, in its own dtype."""
        return mask24(weight, mask)

    def describe(self, what: str) -> str:
        return f"{what}, STE" + (", MVUE" if self.mvue else "")
