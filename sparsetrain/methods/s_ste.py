"""S-STE: a continuous 2:4 projection.

What it does    trains with β S(W): every group of four is soft-thresholded by its second
                smallest magnitude, so a weight crosses zero instead of jumping when the
                mask changes; the gradient passes straight through
β               ⟨W, S⟩ / ⟨S, S⟩ per tensor, fixed at the start of the sparse phase: computed
                anew every step it blows up
Products        forward sparse; grad input dense (S(W) is 2:4 along the input only); grad
                weight by MVUE
Source          Hu et al., NeurIPS 2024, arXiv 2409.09099
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsetrain.autograd import Engine, Packed, pack_soft_linear24, packed_soft_linear24
from sparsetrain.ops import soft_threshold24
from sparsetrain.pattern import Rule


@dataclass(frozen=True)
class SSTE:
    """Soft-thresholded 2:4 weights. mvue: sample grad weight instead of computing it exactly."""

    mvue: bool = True

    @property
    def rule(self) -> Rule:
        return "row"

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
        return pack_soft_linear24(weight, _known(scale), dtype, engine)

    def linear(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, packed: Packed, engine: Engine
    ) -> Tensor:
        return packed_soft_linear24(x, weight, bias, packed, mvue=self.mvue, engine=engine)

    def weight24(self, weight: Tensor, mask: Tensor, scale: Tensor | None) -> Tensor:
        """The weight that the products use, dense with zeros; S makes them, not the mask."""
        return soft_threshold24(weight, _known(scale).float())

    def describe(self) -> str:
        return "2:4 weight, soft threshold, S-STE" + (", MVUE" if self.mvue else "")


def _known(scale: Tensor | None) -> Tensor:
    if scale is None:
        raise ValueError(
            "S-STE has no β yet, because the model was converted on the meta device; load its "
            "weights, then call set_sparse(model, False) and set_sparse(model, True)"
        )
    return scale
