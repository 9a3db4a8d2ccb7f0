"""pack24: pack a matrix along its rows with a given mask."""

from torch import Tensor

from sparsetrain.ops.checks import check_groups, check_mask
from sparsetrain.ops.pack_into24 import empty_forms24
from sparsetrain.ops.register import register
from sparsetrain.reference.pack24 import pack24 as reference


def _check(x: Tensor, mask: Tensor) -> None:
    check_groups("x", x)
    check_mask("mask", mask, x)


_op = register(
    "pack24(Tensor x, Tensor mask) -> (Tensor values, Tensor meta)",
    check=_check,
    fake=lambda x, mask: empty_forms24(x, rows=True)[:2],
    kernel=reference,
)


def pack24(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Pack x along its rows with a mask that keeps at most two of every four.

    x      [R, C], C % 4 == 0
    mask   uint8 [R, ceil(C/8)], as select24 gives it

    Returns values [R, C/2] in x's dtype and meta uint8 [ceil(C/64), ceil(R/64), 512]
    (reference/pack24.py).
    Raises ValueError for what it does not take, and for a group that keeps more than two. It has no
    CUDA kernel; apply24 has one.
    """
    return _op(x, mask)
