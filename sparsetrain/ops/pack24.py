"""pack24: pack a matrix along its rows with a given mask."""

import torch
from torch import Tensor

from sparsetrain.ops.checks import check_groups, check_mask
from sparsetrain.reference.pack24 import meta_shape24
from sparsetrain.reference.pack24 import pack24 as reference

torch.library.define(
    "sparsetrain::pack24",
    "(Tensor x, Tensor mask) -> (Tensor values, Tensor meta)",
    tags=torch.Tag.pt2_compliant_tag,
)


def _check(x: Tensor, mask: Tensor) -> None:
    check_groups("x", x)
    check_mask("mask", mask, x)


@torch.library.register_fake("sparsetrain::pack24")
def _fake(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    R, C = x.shape
    return x.new_empty(R, C // 2), x.new_empty(meta_shape24(R, C), dtype=torch.uint8)


@torch.library.impl("sparsetrain::pack24", "default")
@torch.no_grad()
def _kernel(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    _check(x, mask)
    return reference(x, mask)


def pack24(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Pack x along its rows with a mask that keeps at most two of every four.

    x      [R, C], C % 4 == 0
    mask   uint8 [R, ceil(C/8)], as select24 gives it

    Returns values [R, C/2] in x's dtype and meta uint8 [ceil(C/64), ceil(R/64), 512]
    (reference/pack24.py).
    Raises ValueError for what it does not take, and for a group that keeps more than two. It has no
    CUDA kernel; apply24 has one.
    """
    _check(x, mask)
    return torch.ops.sparsetrain.pack24(x, mask)
