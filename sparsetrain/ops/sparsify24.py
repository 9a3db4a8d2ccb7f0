"""sparsify24: choose a 2:4 mask and pack, in both orientations at once."""

from typing import Any

import torch
from torch import Tensor

from sparsetrain.ops.checks import check_cuda, check_dtype, check_groups, check_mask, check_rule
from sparsetrain.ops.pack_into24 import empty_forms24
from sparsetrain.ops.register import register
from sparsetrain.reference.sparsify24 import sparsify24 as reference
from sparsetrain.select import Rule


def _check(x: Tensor, rule: str, dtype: torch.dtype | None, previous: Tensor | None) -> None:
    check_groups("x", x)
    check_cuda("x", x)
    check_rule(rule)
    check_dtype("dtype", dtype)
    if previous is not None:
        check_mask("previous", previous, x)


def _fake(x: Tensor, rule: str, dtype: torch.dtype | None, *_: Any) -> tuple[Tensor | None, ...]:
    mask = x.new_empty(x.shape[0], (x.shape[1] + 7) // 8, dtype=torch.uint8)
    flips = x.new_empty((), dtype=torch.int64)
    return *empty_forms24(x, dtype, rows=True, columns=True)[:4], mask, flips


_op = register(
    'sparsify24(Tensor x, str rule="transposable", ScalarType? dtype=None, Tensor? previous=None)'
    " -> (Tensor values, Tensor meta, Tensor values_t, Tensor meta_t, Tensor mask, Tensor flips)",
    check=_check,
    fake=_fake,
    kernel=reference,
)


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
    return _op(x, rule, dtype, previous)
