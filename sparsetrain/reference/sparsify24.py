"""Make a matrix 2:4 and pack it, in both orientations.

Dimension key:  R rows   C columns   R128 = padded_rows(R)
"""

import torch
from torch import Tensor

from sparsetrain.reference.apply24 import pack_both24
from sparsetrain.reference.flips24 import flips24
from sparsetrain.reference.masks24 import mask_row24, pack_bits, select_mask24
from sparsetrain.reference.pack24 import pack_rows24, pad_rows24
from sparsetrain.select import Rule


def sparsify24(
    x_RC: Tensor, rule: Rule, dtype: torch.dtype | None, previous: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Choose the mask of x by the rule and pack x and its transpose.

    The rule "row" has the best mask of each orientation: that of the transpose is the row mask of
    x.T padded with zeros. The other rules have one mask for both.
    dtype: of the values; None keeps x's. Scores are always those of x in its own dtype.
    previous: an earlier mask of x's rows as bits, or None.
    Returns values, meta, values_t, meta_t (reference/pack24.py), the mask of x's rows as bits, and
    how many bits of it differ from previous, int64 scalar, 0 without one.
    """
    mask_RC = select_mask24(x_RC, rule)
    values, meta, values_t, meta_t = (
        _pack_each24(x_RC, mask_RC, dtype) if rule == "row" else pack_both24(x_RC, mask_RC, dtype)
    )
    mask = pack_bits(mask_RC)
    flips = flips24(mask, mask if previous is None else previous)
    return values, meta, values_t, meta_t, mask, flips


def _pack_each24(
    x_RC: Tensor, mask_RC: Tensor, dtype: torch.dtype | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtype = dtype or x_RC.dtype
    x_CR128 = pad_rows24(x_RC).T
    values, meta = pack_rows24(x_RC.to(dtype), mask_RC)
    values_t, meta_t = pack_rows24(x_CR128.to(dtype), mask_row24(x_CR128))
    return values, meta, values_t, meta_t
