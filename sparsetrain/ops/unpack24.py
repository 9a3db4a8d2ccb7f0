"""unpack24: the dense matrix of a packed one."""

from torch import Tensor

from sparsetrain.ops.checks import check_matrix, check_packed
from sparsetrain.ops.register import register
from sparsetrain.reference.pack24 import unpack24 as reference


def _check(values: Tensor, meta: Tensor) -> None:
    check_matrix("values", values)
    if values.shape[1] % 2 != 0:
        raise ValueError(
            f"values: {values.shape[1]} columns are not two per group; pass what pack24 returns"
        )
    check_packed("values", values, "meta", meta, values.shape[0], 2 * values.shape[1])


_op = register(
    "unpack24(Tensor values, Tensor meta) -> Tensor",
    check=_check,
    fake=lambda values, meta: values.new_empty(values.shape[0], 2 * values.shape[1]),
    kernel=reference,
)


def unpack24(values: Tensor, meta: Tensor) -> Tensor:
    """Give the dense matrix of a packed one, exact zeros where nothing was kept.

    values   [R, C/2]
    meta     uint8 [ceil(C/64), ceil(R/64), 512], the two positions of a group ascending
             (reference/pack24.py)

    Returns [R, C] in the dtype of values. Raises ValueError for what it does not take.
    """
    return _op(values, meta)
