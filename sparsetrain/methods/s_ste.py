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

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparsetrain.methods.hooks import Hooks
from sparsetrain.ops import soft_threshold24
from sparsetrain.products import BOTH, Forms, Packed, Product, Spec, pack
from sparsetrain.select import ROW, Selection


@dataclass(frozen=True)
class SSTE(Hooks):
    """Soft-thresholded 2:4 weights (Hu et al., NeurIPS 2024).

    mvue: grad weight from an unbiased 2:4 sample instead of exactly.
    """

    mvue: bool = field(default=True, kw_only=True)

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
        """The weight as its products read it, in their dtype. The threshold makes the zeros: mask
        and selection are not used."""
        soft = soft_threshold24(_in_one_pass(weight, dtype), _known(scale).float(), dtype)
        product = product.in_dtype(dtype, weight.is_cuda)
        if not (product.packs and forms.rows):
            return Packed(Spec(ROW, product), dense=soft)
        rows = pack(soft, None, ROW, product, dtype, Forms(rows=True, columns=False, dense=False))
        return rows._replace(dense=soft)

    def weight24(self, weight: Tensor, mask: Tensor, scale: Tensor | None) -> Tensor:
        """The weight that the products use, dense with zeros; S makes them, not the mask."""
        return soft_threshold24(weight, _known(scale).float())

    def describe(self, what: str) -> str:
        return "2:4 weight, soft threshold, S-STE" + (", MVUE" if self.mvue else "")


def _in_one_pass(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Kernels round float32 alone."""
    return weight if weight.dtype in (dtype, torch.float32) else weight.to(dtype)


def _known(scale: Tensor | None) -> Tensor:
    if scale is None:
        raise ValueError(
            "S-STE has no β yet, because the model was converted on the meta device: load its "
            "weights, then call sparsetrain.attach(model, optimizer)"
        )
    return scale
