"""Pack one orientation of a matrix with a given mask, and give it with zeros besides.

Dimension key:  R rows   C columns
"""

import torch
from torch import Tensor

from sparsetrain.reference.apply24 import apply24
from sparsetrain.reference.mask24 import mask24


def apply24_dense(
    x_RC: Tensor, mask: Tensor, transposed: bool, dtype: torch.dtype | None
) -> tuple[Tensor, Tensor, Tensor]:
    """One half of what `apply24` returns, the second if transposed, and `mask24` in dtype."""
    packed = apply24(x_RC, mask, dtype)
    values, meta = packed[2:] if transposed else packed[:2]
    return values, meta, mask24(x_RC, mask, 1.0, 0.0).to(dtype or x_RC.dtype)
