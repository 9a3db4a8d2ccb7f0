"""column_sums: the sum over rows, which is the gradient of a bias."""

import torch
from torch import Tensor

from sparsetrain.ops.checks import check_cuda, check_matrix
from sparsetrain.ops.register import register
from sparsetrain.reference.column_sums import column_sums as reference


def _check(x: Tensor) -> None:
    check_matrix("x", x)
    check_cuda("x", x)


_op = register(
    "column_sums(Tensor x) -> Tensor",
    check=_check,
    fake=lambda x: x.new_empty(x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32)),
    kernel=reference,
)


def column_sums(x: Tensor) -> Tensor:
    """Give x summed over rows, as accurate as float32 sums are, always in the same order.

    x      [R, C], any strides; a matrix whose rows are not contiguous is copied first

    Returns [C], float32 (float64 for float64). torch.compile would fuse such a sum with the cast
    before it and read float32 again; as an op it reads the 16-bit tensor that the products read
    (docs/performance.md). Kernels for CUDA take float32, bfloat16 and float16.
    Raises ValueError for what it does not take.
    """
    return _op(x)
