"""unpack24: the dense matrix of a packed one."""

from torch import Tensor

from sparsetrain.ops.checks import check_packed, check_pairs
from sparsetrain.ops.register import register
from sparsetrain.reference.pack24 import unpack24 as reference


def _check(values: Tensor, meta: Tensor) -> None:
    check_packed("values", values, "meta", meta, *check_pairs(values))


_op = register(
    "unpack24(Tensor values, Tensor meta) -> Tensor",
    check=_check,
    fake=lambda values, meta: values.new_empty(values.shape[0], 2 * values.shape[1]),
    kernel=reference,
)


def unpack24(values: Tensor, meta: Tensor) -> Tensor:
    """Give the dense matrix of a packed one, exact zeros where nothing was kept.

    values   [R, C/2]; float8_e4m3fn and int8 too, whose scales are not looked at
    meta     uint8 [ceil(C/64), ceil(R/64), 512], of 8-bit values [ceil(C/128), ceil(R/64), 1024];
             the two positions of a group ascending (reference/pack24.py)

    Returns [R, C] in the dtype of values. Raises ValueError for what it does not take.
    """
    return _op(values, meta)
