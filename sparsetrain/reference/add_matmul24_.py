"""Add the product of a packed 2:4 matrix and a dense one to a matrix in place."""

from torch import Tensor

from sparsetrain.reference.matmul24 import linear24


def add_matmul24_(
    out_PQ: Tensor, values: Tensor, meta: Tensor, b_K0N: Tensor, transpose_out: bool
) -> None:
    """out += A b, or its transpose; dimensions and products as in reference/matmul24.py.

    Summed in float32 (float64 for float64) and rounded once, to the dtype of out.
    """
    product_PQ = linear24(values, meta, b_K0N, None, transpose_out)
    out_PQ.copy_(out_PQ.to(product_PQ.dtype) + product_PQ)
