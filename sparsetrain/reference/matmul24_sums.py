"""The product of a packed 2:4 matrix and a dense one, and its sums over rows."""

from torch import Tensor

from sparsetrain.reference.matmul24 import linear24


def matmul24_sums(
    values: Tensor, meta: Tensor, b_K0N: Tensor, bias_Q: Tensor | None, transpose_out: bool
) -> tuple[Tensor, Tensor]:
    """Give A b, or its transpose, plus the bias, and column_sums [Q] of it.

    Dimensions and products as in reference/matmul24.py. The sums are those of the float32 (float64
    for float64) result before it is rounded to the dtype of values, and stay in float32 (float64).
    """
    out_PQ = linear24(values, meta, b_K0N, bias_Q, transpose_out)
    return out_PQ.to(values.dtype), out_PQ.sum(dim=0)
