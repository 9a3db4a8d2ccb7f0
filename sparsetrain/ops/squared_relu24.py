"""squared_relu24: relu(z)² made 2:4 and packed, in both orientations at once."""

import torch
from torch import Tensor

from sparsetrain.ops.checks import check_cuda, check_groups, check_rule
from sparsetrain.pattern import Rule
from sparsetrain.reference.pack24 import meta_shape24, padded_rows
from sparsetrain.reference.squared_relu24 import squared_relu24 as reference

torch.library.define(
    "sparsetrain::squared_relu24",
    '(Tensor z, str rule="transposable")'
    " -> (Tensor values, Tensor meta, Tensor values_t, Tensor meta_t)",
    tags=torch.Tag.pt2_compliant_tag,
)


def _check(z: Tensor, rule: str) -> None:
    check_groups("z", z)
    check_cuda("z", z)
    check_rule(rule)


@torch.library.register_fake("sparsetrain::squared_relu24")
def _fake(z: Tensor, rule: Rule = "transposable") -> tuple[Tensor, Tensor, Tensor, Tensor]:
    R, C = z.shape
    R128 = padded_rows(R)
    return (
        z.new_empty(R, C // 2),
        z.new_empty(meta_shape24(R, C), dtype=torch.uint8),
        z.new_empty(C, R128 // 2),
        z.new_empty(meta_shape24(C, R128), dtype=torch.uint8),
    )


@torch.library.impl("sparsetrain::squared_relu24", "default")
@torch.no_grad()
def _kernel(z: Tensor, rule: Rule = "transposable") -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _check(z, rule)
    return reference(z, rule)


def squared_relu24(z: Tensor, rule: Rule = "transposable") -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Make h = relu(z)² 2:4 and pack it and its transpose.

    z      [R, C], C % 4 == 0: R tokens, C features; the transpose is padded to R128
    rule   as in sparsify24

    Returns values [R, C/2], meta uint8 [ceil(C/64), ceil(R/64), 512], values_t [C, R128/2] and
    meta_t uint8 [R128/64, ceil(C/64), 512] of h (reference/pack24.py); they are also all that
    squared_relu24_backward needs. Kernels for CUDA take float32, bfloat16 and float16.
    Raises ValueError for what it does not take.
    """
    _check(z, rule)
    return torch.ops.sparsetrain.squared_relu24(z, rule)
