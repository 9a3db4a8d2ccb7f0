"""Write a matrix under a 2:4 mask in the forms that products want of it.

Dimension key:  R rows   C columns
"""

from collections.abc import Sequence

from torch import Tensor

from sparsetrain.reference.apply24 import apply24
from sparsetrain.reference.mask24 import mask24
from sparsetrain.reference.masks24 import select24
from sparsetrain.reference.pack24 import pack24
from sparsetrain.select import Rule


def pack_into24(
    x_RC: Tensor, mask: Tensor | None, rule: Rule, forms: Sequence[Tensor | None]
) -> None:
    """Fill those of values, meta, values_t, meta_t (`apply24`) and dense (`mask24`) that there
    are, in their dtype. mask: bits, or None: the rule chooses it from x; "row" only without
    columns."""
    mask = select24(x_RC, rule) if mask is None else mask
    values, meta, values_t, meta_t, dense = forms
    if values_t is not None:
        packed = apply24(x_RC, mask, values_t.dtype)
    elif values is not None:  # a mask of rows alone is enough
        packed = pack24(x_RC.to(values.dtype), mask)
    else:
        packed = ()
    for form, source in zip((values, meta, values_t, meta_t), packed, strict=False):
        if form is not None:
            form.copy_(source)
    if dense is not None:
        dense.copy_(mask24(x_RC, mask, 1.0, 0.0))
