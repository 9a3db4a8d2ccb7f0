"""quantize_across24: a 2:4 matrix in 8 bits, packed in one orientation and dense in the other."""

from typing import Any

import torch
from torch import Tensor

from sparsetrain.ops.quantize24 import check_masked, empty_scaled24
from sparsetrain.ops.register import register
from sparsetrain.reference.pack24 import padded_rows
from sparsetrain.reference.quantize24 import quantize_across24 as reference

Across24 = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def _check(x: Tensor, mask: Tensor, dtype: torch.dtype, columns: bool, power_of_two: bool) -> None:
    check_masked("quantize_across24", x, mask, dtype, "row", power_of_two)


def _fake(x: Tensor, mask: Tensor, dtype: torch.dtype, columns: bool, *_: Any) -> Across24:
    R, C = x.shape
    packed = (C, padded_rows(R)) if columns else (R, C)
    dense = (R, C) if columns else (C, R)
    q, scales = x.new_empty(dense, dtype=dtype), x.new_empty(dense[0], 1, dtype=torch.float32)
    return *empty_scaled24(x, *packed, dtype, "row"), q, scales


_op = register(
    "quantize_across24(Tensor x, Tensor mask, ScalarType dtype, bool columns,"
    " bool power_of_two=False)"
    " -> (Tensor values, Tensor meta, Tensor scales, Tensor q, Tensor scales_q)",
    check=_check,
    fake=_fake,
    kernel=reference,
)


def quantize_across24(
    x: Tensor, mask: Tensor, dtype: torch.dtype, columns: bool, power_of_two: bool = False
) -> Across24:
    """A 2:4 matrix that is the sparse operand of one product and the dense one of another, which
    contracts the other way: in 8 bits for both, in one call.

    x              [R, C], C % 4 == 0
    mask           as in `quantize_both24`
    dtype          torch.float8_e4m3fn or torch.int8
    columns        False packs x along its rows, and gives its transpose dense; True packs along its
                   columns, and gives x dense
    power_of_two   as in `quantize`

    Returns values, meta and scales of the packed orientation, as `quantize_both24` gives them by
    "row"; then the other one with its zeros, q [C, R] or [R, C] in dtype, and scales_q [C, 1] or
    [R, 1]: the numbers that `quantize_both24` packs. Raises ValueError as `quantize_both24` does.
    """
    return _op(x, mask, dtype, columns, power_of_two)
