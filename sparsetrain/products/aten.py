"""PyTorch's own 2:4 product, for the packed form of this package.

torch.ops.aten._sparse_semi_structured_mm and _addmm (CUTLASS, compute capability 8.x only) are in
every PyTorch from 2.10 to 2.15. _sparse_semi_structured_linear does the same and is deprecated, so
it is not used. They read values as they lie here; metadata is the same nibbles in another order,
put there by one copy for each product. What they want of sizes and strides:
sparse_semi_structured_mad_op in ATen/native/sparse/cuda/SparseSemiStructuredOps.cu of PyTorch.

Dimension key:  M rows of the packed matrix   K its columns   K0 rows of b   N columns of b
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsetrain.products.dense import HALVES

FEATURES = 64
"""Features of a layer must be a multiple of this: a block of metadata is 32 rows x 64 columns, and
a weight is multiplied in both orientations."""

_ROWS = 32
_ALIGNED = 8  # 16 bytes of 16-bit values
_LOWEST = 0x4444  # four groups that keep their first two, as packing fills up what is empty


def aten_mm(
    values: Tensor, meta: Tensor, b_K0N: Tensor, bias: Tensor | None, transpose_out: bool
) -> Tensor:
    """`ops.matmul24` through PyTorch's op: A b + bias, or its transpose.

    values  bfloat16 or float16 [M, K/2], K a multiple of 64
    meta    uint8 [K/64, ceil(M/64), 512] (reference/pack24.py)
    b       [K0, N]; K0 is K, or less where A's columns were padded: missing rows are zero
    bias    along the last dimension of what is returned; along N it is added in a second step,
            which rounds once more

    Any M and N: up to the next multiple of 32 and 8 they are padded, which copies. Returns [M, N],
    row by row; [N, M] is the transposed view of that. Raises ValueError for another dtype or K.
    """
    _check(values, b_K0N)
    M, N = values.shape[0], b_K0N.shape[1]
    K = b_K0N.shape[0] + -b_K0N.shape[0] % FEATURES
    if M * N == 0:
        return values.new_zeros((N, M) if transpose_out else (M, N))
    a_MK2 = _pad(values[:, : K // 2], -M % _ROWS, 0)
    words = _reorder(meta[: K // 64], a_MK2.shape[0], padded=M % _ROWS != 0)
    b_KN = _aligned(_pad(b_K0N, K - b_K0N.shape[0], -N % _ALIGNED))
    along_M = bias if transpose_out else None
    if along_M is None:
        out_MN = torch.ops.aten._sparse_semi_structured_mm(a_MK2, words, b_KN)
    else:
        along_M = F.pad(along_M, (0, -M % _ROWS)).contiguous()
        out_MN = torch.ops.aten._sparse_semi_structured_addmm(along_M, a_MK2, words, b_KN)
    out_MN = out_MN[:M, :N]
    if transpose_out:
        return out_MN.T
    return out_MN if bias is None else out_MN + bias


def _check(values: Tensor, b_K0N: Tensor) -> None:
    if values.dtype not in HALVES:
        raise ValueError(
            f'values: {values.dtype} has no product in engine="aten", which takes bfloat16 and'
            ' float16; train under torch.autocast, or with engine="masked"'
        )
    columns, rows = 2 * values.shape[1], b_K0N.shape[0]
    if columns % FEATURES != 0 or not columns - 128 < rows <= columns:
        raise ValueError(
            f'values: {columns} columns for b of {rows} rows; engine="aten" multiplies what is'
            f' packed to a multiple of {FEATURES} columns: pad the features, or use engine="masked"'
        )


def _reorder(meta: Tensor, rows: int, padded: bool) -> Tensor:
    """`to_aten_cutlass` of export/layouts24.py as one copy, to int16 [rows, K/16].

    Both orders keep words of four groups together. padded: rows past the matrix have metadata 0,
    which is none of the hardware's; they get the lowest positions.
    """
    atoms, bands = meta.shape[:2]
    # Bits as in META_ORDER and ATEN_CUTLASS: G R r5 r4 g2 r2-0 g3 r3 to G g3 R r5 r2-0 r4 g2 r3.
    words = meta.view(torch.int16).reshape(atoms, bands, 2, 2, 2, 8, 2, 2)
    words = words.permute(0, 6, 1, 2, 5, 3, 4, 7).reshape(2 * atoms, 2 * bands, 64)
    words = words[:, : rows // _ROWS].reshape(rows, 4 * atoms)
    return torch.where(words == 0, _LOWEST, words) if padded else words


def _pad(x: Tensor, rows: int, columns: int) -> Tensor:
    """Zeros below and to the right; x itself where there are none, its layout kept where it is
    transposed."""
    if rows == 0 and columns == 0:
        return x
    if x.stride(0) == 1:
        return F.pad(x.T, (0, rows, 0, columns)).T
    return F.pad(x, (0, columns, 0, rows))


def _aligned(x: Tensor) -> Tensor:
    """x where its rows or columns lie together and begin on 16 bytes, else a copy.

    torch.compile cannot trace where a tensor begins; what begins elsewhere, CUTLASS refuses there.
    """
    rows, columns = x.shape
    by_row, by_column = x.stride()
    together = (by_column == 1 and by_row >= columns) or (by_row == 1 and by_column >= rows)
    begins = 0 if torch.compiler.is_compiling() else x.storage_offset()
    fits = together and max(by_row, by_column) % _ALIGNED == 0 and begins % _ALIGNED == 0
    return x if fits else x.clone(memory_format=torch.contiguous_format)
