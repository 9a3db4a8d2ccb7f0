"""mask24: one factor for what a mask keeps, another for what it does not."""

import torch
from torch import Tensor

from sparsetrain.ops.checks import check_cuda, check_groups, check_mask
from sparsetrain.reference.mask24 import mask24 as reference

torch.library.define(
    "sparsetrain::mask24",
    "(Tensor x, Tensor mask, float kept=1.0, float pruned=0.0) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)


def _check(x: Tensor, mask: Tensor) -> None:
    check_groups("x", x)
    check_cuda("x", x)
    check_mask("mask", mask, x)


@torch.library.register_fake("sparsetrain::mask24")
def _fake(x: Tensor, mask: Tensor, kept: float = 1.0, pruned: float = 0.0) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.impl("sparsetrain::mask24", "default")
@torch.no_grad()
def _kernel(x: Tensor, mask: Tensor, kept: float = 1.0, pruned: float = 0.0) -> Tensor:
    _check(x, mask)
    return reference(x, mask, kept, pruned)


def mask24(x: Tensor, mask: Tensor, kept: float = 1.0, pruned: float = 0.0) -> Tensor:
    """Give x * where(mask, kept, pruned).

    x      [R, C], C % 4 == 0
    mask   uint8 [R, ceil(C/8)], as select24 gives it; any bits

    Returns [R, C] in x's dtype. A factor of 0 gives exactly 0, of NaN and infinities too; a factor
    of 1 gives x exactly. Kernels for CUDA take float32, bfloat16 and float16.
    Raises ValueError for what it does not take.
    """
    _check(x, mask)
    return torch.ops.sparsetrain.mask24(x, mask, kept, pruned)
