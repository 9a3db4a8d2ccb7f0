"""sparsify24: choose a 2:4 mask and pack, in both orientations at once."""

import torch
from torch import Tensor

from sparsetrain.ops.checks import check_cuda, check_dtype, check_groups, check_mask, check_rule
from sparsetrain.pattern import Rule
from sparsetrain.reference.pack24 import meta_shape24, padded_rows
from sparsetrain.reference.sparsify24 import sparsify24 as reference

torch.library.define(
    "sparsetrain::sparsify24",
    '(Tensor x, str rule="transposable", ScalarType? dtype=None, Tensor? previous=None)'
    " -> (Tensor values, Tensor meta, Tensor values_t, Tensor meta_t, Tensor mask, Tensor flips)",
    tags=torch.Tag.pt2_compliant_tag,
)


def _check(x: Tensor, rule: str, dtype: torch.dtype | None, previous: Tensor | None) -> None:
    check_groups("x", x)
    check_cuda("x", x)
    check_rule(rule)
    if dtype is not None:
        check_dtype("dtype", dtype)
    if previous is not None:
        check_mask("previous", previous, x)


@torch.library.register_fake("sparsetrain::sparsify24")
def _fake(
    x: Tensor,
    rule: Rule = "transposable",
    dtype: torch.dtype | None = None,
    previous: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    R, C = x.shape
    R128 = padded_rows(R)
    return (
        x.new_empty(R, C // 2, dtype=dtype or x.dtype),
        x.new_empty(meta_shape24(R, C), dtype=torch.uint8),
        x.new_empty(C, R128 // 2, dtype=dtype or x.dtype),
        x.new_empty(meta_shape24(C, R128), dtype=torch.uint8),
        x.new_empty(R, (C + 7) // 8, dtype=torch.uint8),
        x.new_empty((), dtype=torch.int64),
    )


@torch.library.impl("sparsetrain::sparsify24", "default")
@torch.no_grad()
def _kernel(
    x: Tensor,
    rule: Rule = "transposable",
    dtype: torch.dtype | None = None,
    previous: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    _check(x, rule, dtype, previous)
    return reference(x, rule, dtype, previous)


def sparsify24(
    x: Tensor,
    rule: Rule = "transposable",
    dtype: torch.dtype | None = None,
    previous: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Make x 2:4 by magnitude and pack it and its transpose.

    x          [R, C], C % 4 == 0; R is free, the transpose is padded to R128, a multiple of 128
    rule       as in select24; with "row" each orientation has its own best mask, the other rules
               have one mask for both
    dtype      of the values, x's if None; the mask is always chosen from x in its own dtype
    previous   uint8 [R, ceil(C/8)], an earlier mask to compare with

    Returns values [R, C/2], meta uint8 [ceil(C/64), ceil(R/64), 512], values_t [C, R128/2],
    meta_t uint8 [R128/64, ceil(C/64), 512] (reference/pack24.py), the mask of x's rows,
    uint8 [R, ceil(C/8)], and flips, int64 scalar tensor: how many bits of the mask differ from
    previous, 0 without one.
    Kernels for CUDA take float32, bfloat16 and float16, and as dtype x's own, or from float32 one
    of the other two. Raises ValueError for what it does not take.
    """
    _check(x, rule, dtype, previous)
    return torch.ops.sparsetrain.sparsify24(x, rule, dtype, previous)
