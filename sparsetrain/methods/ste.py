"""STE: the straight-through estimator.

What it does    trains with W ⊙ m; the gradient of W ⊙ m is given to all of W
When            the plain baseline; enough with a dense tail of 20–30 % of the steps
Cost            choosing the mask; none with a frozen one
Published       DINOv2 ViT-L, ImageNet-1k: always sparse 82.3, first 70 % sparse
                82.7, dense 82.8 (PyTorch blog, 2024)
Source          Bengio et al. 2013, arXiv 1308.3432; for 2:4, Zhou et al., ICLR 2021
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsetrain.autograd import Engine, Packed, pack_linear24, packed_linear24
from sparsetrain.ops import mask24
from sparsetrain.pattern import RULES, Rule


@dataclass(frozen=True)
class STE:
    """Weights 2:4 in the products, straight-through gradients.

    rule: `transposable` (both orientations 2:4: forward and grad input sparse), `transposable_l2`
        (the same by squares instead of magnitudes), `row` (forward only, keeps more energy),
        `greedy` (what xFormers does; for comparison).
    mvue: grad weight from an unbiased 2:4 sample of the output gradient along tokens.
    """

    rule: Rule = "transposable"
    mvue: bool = False

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"rule={self.rule!r}: choose one of {', '.join(RULES)}")

    def pack(
        self,
        weight: Tensor,
        mask: Tensor | None,
        scale: Tensor | None,
        dtype: torch.dtype,
        engine: Engine,
        into: Packed | None = None,
    ) -> Packed:
        """The weight as `linear` multiplies it, in the dtype of the products. into: what this
        returned before, to write into where it can."""
        return pack_linear24(weight, mask, dtype, self.rule, engine, into)

    def linear(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, packed: Packed, engine: Engine
    ) -> Tensor:
        return packed_linear24(
            x, weight, bias, packed, rule=self.rule, mvue=self.mvue, engine=engine
        )

    def weight24(self, weight: Tensor, mask: Tensor, scale: Tensor | None) -> Tensor:
        """The weight that the products use, dense with zeros."""
        return mask24(weight, mask)

    def describe(self) -> str:
        return f"2:4 weight, {self.rule}, STE" + (", MVUE" if self.mvue else "")
