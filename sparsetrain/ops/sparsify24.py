"""sparsify24: choose a 2:4 mask and pack, in both orientations at once."""

import torch
from torch import Tensor

from sparsetrain.ops.checks import check_dtype, check_groups, check_rule
from sparsetrain.pattern import Rule
from sparsetrain.reference.sparsify24 import sparsify24 as reference

torch.library.define(
    "sparsetrain::sparsify24",
    '(Tensor x, str rule="transposable", ScalarType? dtype=None)'
    " -> (Tensor values, Tensor meta, Tensor values_t, Tensor meta_t, Tensor mask)",
    tags=torch.Tag.pt2_compliant_tag,
)


def _check(x: Tensor, rule: str, dtype: torch.dtype | None) -> None:
    check_groups("x", x)
    check_rule(rule)
    if dtype is not None:
        check_dtype("dtype", dtype)


@torch.library.register_fake("sparsetrain::sparsify24")
def _fake(
    x: Tensor, rule: Rule = "transposable", dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    R, C = x.shape
    R4 = (R + 3) // 4 * 4
    return (
        x.new_empty(R, C // 2, dtype=dtype or x.dtype),
        x.new_empty(R, (C + 7) // 8, dtype=torch.uint8),
        x.new_empty(C, R4 // 2, dtype=dtype or x.dtype),
        x.new_empty(C, (R4 + 7) // 8, dtype=torch.uint8),
        x.new_empty(R, (C + 7) // 8, dtype=torch.uint8),
    )


@torch.library.impl("sparsetrain::sparsify24", "default")
@torch.no_grad()
def _kernel(
    x: Tensor, rule: Rule = "transposable", dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    _check(x, rule, dtype)
    return reference(x, rule, dtype)


def sparsify24(
    x: Tensor, rule: Rule = "transposable", dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Make x 2:4 by magnitude and pack it and its transpose.

    x       [R, C], C % 4 == 0; R is free, the transpose is padded to R4, a multiple of four
    rule    as in select24; "transposable" and "greedy" have one mask for both orientations, with
            "row" each orientation has its own best mask
    dtype   of the values, x's if None; the mask is always chosen from x in its own dtype

    Returns values [R, C/2], meta uint8 [R, ceil(C/8)], values_t [C, R4/2],
    meta_t uint8 [C, ceil(R4/8)] (reference/pack24.py) and the mask of x's rows, uint8
    [R, ceil(C/8)]. Raises ValueError for what it does not take.
    """
    _check(x, rule, dtype)
    return torch.ops.sparsetrain.sparsify24(x, rule, dtype)
