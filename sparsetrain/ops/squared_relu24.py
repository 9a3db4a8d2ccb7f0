"""squared_relu24: relu(z)² made 2:4 and packed, in both orientations at once."""

from torch import Tensor

from sparsetrain.ops.checks import check_cuda, check_groups, check_rule
from sparsetrain.ops.pack_into24 import empty_forms24
from sparsetrain.ops.register import register
from sparsetrain.reference.squared_relu24 import squared_relu24 as reference
from sparsetrain.select import Rule


def _check(z: Tensor, rule: str) -> None:
    check_groups("z", z)
    check_cuda("z", z)
    check_rule(rule)


_op = register(
    'squared_relu24(Tensor z, str rule="transposable")'
    " -> (Tensor values, Tensor meta, Tensor values_t, Tensor meta_t)",
    check=_check,
    fake=lambda z, rule: empty_forms24(z, rows=True, columns=True)[:4],
    kernel=reference,
)


def squared_relu24(z: Tensor, rule: Rule = "transposable") -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Make h = relu(z)² 2:4 and pack it and its transpose.

    z      [R, C], C % 4 == 0: R tokens, C features; the transpose is padded to R128
    rule   as in sparsify24

    Returns values [R, C/2], meta uint8 [ceil(C/64), ceil(R/64), 512], values_t [C, R128/2] and
    meta_t uint8 [R128/64, ceil(C/64), 512] of h (reference/pack24.py); they are also all that
    squared_relu24_backward needs. Kernels for CUDA take float32, bfloat16 and float16.
    Raises ValueError for what it does not take.
    """
    return _op(z, rule)
