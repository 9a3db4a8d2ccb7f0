"""add_mask24_: add a masked matrix to another in place, in one pass."""

import torch
from torch import Tensor

from sparsetrain.ops.checks import (
    check_alike,
    check_cuda,
    check_device,
    check_groups,
    check_mask,
    check_scalar,
    check_shape,
)
from sparsetrain.ops.register import nothing, register
from sparsetrain.reference.add_mask24_ import add_mask24_ as reference


def _check(
    out: Tensor, x: Tensor, mask: Tensor, kept: float, pruned: float, scale: Tensor | None
) -> None:
    check_groups("out", out)
    check_cuda("out", out)
    if any(size > 1 and stride == 0 for size, stride in zip(out.shape, out.stride(), strict=True)):
        raise ValueError("out: an expanded tensor shares its elements; pass out.contiguous()")
    check_shape("x", x, tuple(out.shape), "that of out")
    check_alike("x", x, "out", out)
    check_mask("mask", mask, x)
    if scale is not None:
        check_scalar("scale", scale, torch.float32)
        check_device("scale", scale, "out", out)


_op = register(
    "add_mask24_(Tensor(a!) out, Tensor x, Tensor mask, float kept=0.0, float pruned=1.0,"
    " Tensor? scale=None) -> ()",
    check=_check,
    fake=nothing,
    kernel=reference,
)


def add_mask24_(
    out: Tensor,
    x: Tensor,
    mask: Tensor,
    kept: float = 0.0,
    pruned: float = 1.0,
    scale: Tensor | None = None,
) -> Tensor:
    """out += scale * x * where(mask, kept, pruned), in place; returns out.

    out, x   [R, C] of one dtype, any strides, C % 4 == 0
    mask     uint8 [R, ceil(C/8)], as select24 gives it; any bits
    scale    float32, one element, on out's device; 1 if None

    With pruned = λ this is the term λ (1 − m) ⊙ W of SR-STE (Zhou et al., ICLR 2021) added to a
    gradient in one pass. Computed in float32 and rounded once. A factor of 0 adds exactly 0, of NaN
    and infinities too. Kernels for CUDA take float32, bfloat16 and float16.
    Raises ValueError for what it does not take.
    """
    _op(out, x, mask, kept, pruned, scale)
    return out
