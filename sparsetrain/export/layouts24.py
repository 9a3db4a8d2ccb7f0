"""The metadata layouts that other products want, from and to ours.

Dimension key:  R rows   C columns

The native one is sm90's for 16-bit values with atoms of K = 64 columns: it is our metadata
(reference/pack24.py) as it lies. Every other keeps the nibbles in another order, written below as
reference/nibbles24.py says; "8-bit" and "16-bit" are values, which stay row by row, [R, C/2]. Our
metadata of 8-bit values has an order of its own, META_ORDER_8BIT.

K, the width of an sm90 atom, is min(tile K, 128) of the product: products that share packed weights
must share it.

Sources: `Sm90GemmSparseConfig` (TensorEAtom_16bit, TensorEAtom_8bit, fill_layoutE) of CUTLASS 4.2,
cutlass/gemm/collective/builders/sm90_sparse_config.inl, and its compressor for the padding; for
PyTorch's layouts torch/sparse/_semi_structured_conversions.py of PyTorch 2.11, and
`MetadataCutlass` and `MetadataCuSparseLt` in ATen/native/sparse/cuda/SparseSemiStructuredTile.cu.
cuSPARSELt's own is not published and may change (NVIDIA/CUDALibrarySamples #167). The two for sm90
were read off what torch._cslt_compress of PyTorch 2.11 (cuSPARSELt 0.8.0) writes on an H200,
2026-11-22: bfloat16 in six sizes, int8 and float8_e4m3fn in one; float16 is taken to be like
bfloat16. GPU tests hold them together.

These are not ops: each is a permutation in plain PyTorch on any device, and a kernel that packs can
write the layout at once.
"""

import torch
from torch import Tensor

from sparsetrain.reference.nibbles24 import block24, read_nibbles, write_nibbles
from sparsetrain.reference.pack24 import (
    META_ORDER,
    META_ORDER_8BIT,
    meta_order24,
    meta_shape24,
    nibbles24,
)

# CUTLASS's on sm90, by the columns K of an atom.
SM90_16BIT = {
    32: "G R r5 r4 g2 r2 r1 r0 r3 g1 g0",
    64: META_ORDER,
    128: "G R r5 r4 g2 r2 r1 r0 g4 g3 r3 g1 g0",
}
SM90_8BIT = {
    64: "G R r5 r4 r3 r2 r1 r0 g3 g2 g1 g0",
    128: "G R r5 r4 r3 r2 r1 r0 g4 g3 g2 g1 g0",
}
# PyTorch's on sm8x.
ATEN_CUTLASS = "G R r2 r1 r0 r4 g2 r3 g1 g0"
ATEN_CUSPARSELT = "G R g3 r6 r5 r2 r1 r0 r4 g2 r3 g1 g0"
# cuSPARSELt's own on sm90.
CUSPARSELT_SM90_16BIT = "R G r5 r4 r2 r1 r0 g1 g0 g2 r3"
CUSPARSELT_SM90_8BIT = "R G r5 r4 r2 r1 r0 g2 g1 g3 r3 g0"
CUSPARSELT_SM90 = {
    torch.float16: CUSPARSELT_SM90_16BIT,
    torch.bfloat16: CUSPARSELT_SM90_16BIT,
    torch.int8: CUSPARSELT_SM90_8BIT,
    torch.float8_e4m3fn: CUSPARSELT_SM90_8BIT,
}


def to_sm90_16bit(meta: Tensor, rows: int, columns: int, atom_k: int) -> Tensor:
    """Reorder the metadata of a [rows, columns] matrix for CUTLASS sm90 products, 16-bit values.

    meta     uint8 [ceil(C/64), ceil(R/64), 512] (reference/pack24.py)
    atom_k   columns of an atom, min(tile K, 128) of the product: 32, 64 (no change) or 128

    Returns uint8 [R' C' / 8] where R' and C' are R and C rounded up to whole atoms, 64 x atom_k;
    the padding is 0, as in CUTLASS. Raises ValueError for another atom_k.
    """
    return _write(meta, rows, columns, _of_atom(SM90_16BIT, atom_k))


def from_sm90_16bit(packed: Tensor, rows: int, columns: int, atom_k: int) -> Tensor:
    """Undo `to_sm90_16bit`: our metadata of the [rows, columns] matrix."""
    return _read(packed, rows, columns, _of_atom(SM90_16BIT, atom_k))


def to_sm90_8bit(meta: Tensor, rows: int, columns: int, atom_k: int) -> Tensor:
    """Reorder metadata for CUTLASS sm90 products of 8-bit values (fp8, int8).

    meta     uint8 [ceil(C/128), ceil(R/64), 1024], of 8-bit values (reference/pack24.py)
    atom_k   64 or 128

    A group is four consecutive values and a nibble the two positions, as for 16-bit values. The
    rest is that of `to_sm90_16bit`.
    """
    return _write(meta, rows, columns, _of_atom(SM90_8BIT, atom_k), META_ORDER_8BIT)


def from_sm90_8bit(packed: Tensor, rows: int, columns: int, atom_k: int) -> Tensor:
    """Undo `to_sm90_8bit`: our metadata of the [rows, columns] matrix."""
    return _read(packed, rows, columns, _of_atom(SM90_8BIT, atom_k), META_ORDER_8BIT)


def to_aten_cutlass(meta: Tensor, rows: int, columns: int) -> Tensor:
    """Reorder metadata for torch._sparse_semi_structured_mm and its relatives (sm8x).

    Returns int16 [R, C/16] contiguous, as `sparse_semi_structured_from_dense_cutlass` does.
    torch._sparse_semi_structured_tile(..., use_cutlass=True) shows the same memory as [R, 2, C/32].
    It agrees on every group that keeps two; where fewer are kept, PyTorch's kernel keeps the
    positions as it finds them, and we fill up the lowest.
    Raises ValueError unless R % 32 == 0 and C % 64 == 0.
    """
    _check_multiple("meta", rows, columns, 32, 64)
    words = _write(meta, rows, columns, ATEN_CUTLASS).view(torch.int16)
    return words.reshape(rows, columns // 16)


def from_aten_cutlass(packed: Tensor, rows: int, columns: int) -> Tensor:
    """Undo `to_aten_cutlass`, of int16 [R, C/16] or the tile kernel's [R, 2, C/32].

    Raises ValueError unless R % 32 == 0 and C % 64 == 0.
    """
    _check_multiple("packed", rows, columns, 32, 64)
    if packed.dim() == 3:
        packed = packed.permute(2, 0, 1)
    return _read(packed.contiguous().flatten().view(torch.uint8), rows, columns, ATEN_CUTLASS)


def to_aten_cusparselt(values: Tensor, meta: Tensor) -> Tensor:
    """Join values and metadata to the one tensor of PyTorch's cuSPARSELt products on sm8x.

    values   float16 or bfloat16 [R, C/2]
    meta     uint8 [ceil(C/64), ceil(R/64), 512]

    Returns [R, 9/16 C] in the dtype of values: memory holds all values row by row, then the
    metadata as torch._sparse_semi_structured_tile(..., use_cutlass=False) orders it on any GPU, to
    the same extent as `to_aten_cutlass`. That call returns it flat; products want two dimensions.
    Raises ValueError for other values, and unless R and C are multiples of 128.
    """
    if values.dtype not in (torch.float16, torch.bfloat16):
        raise ValueError(f"values: {values.dtype} should be float16 or bfloat16; cast them")
    _check_multiple("values", values.shape[0], 2 * values.shape[1], 128, 128)
    return _join(values, meta, ATEN_CUSPARSELT)


def from_aten_cusparselt(packed: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Undo `to_aten_cusparselt`: values [rows, columns/2] and our metadata.

    packed may have any shape. Raises ValueError unless rows and columns are multiples of 128.
    """
    _check_multiple("packed", rows, columns, 128, 128)
    return _split(packed, rows, columns, ATEN_CUSPARSELT)


def to_cusparselt_sm90(values: Tensor, meta: Tensor) -> Tensor:
    """Join values and metadata to the one tensor of cuSPARSELt's products on sm90.

    values   float16, bfloat16, int8 or float8_e4m3fn [R, C/2]
    meta     theirs (reference/pack24.py)

    Returns what torch._cslt_compress returns and torch._cslt_sparse_mm wants there, in the dtype of
    values: [R, 9/16 C], of 8-bit values [R, 5/8 C]. Byte for byte where two values of each group
    are not 0; where fewer are, cuSPARSELt fills up the highest free positions, and we the lowest.
    PyTorch's own tile kernel (use_cutlass=False) writes the sm8x layout on sm90 too, so cuSPARSELt
    reads another matrix from what it packs there.
    Raises ValueError for other values, and unless R % 64 == 0 and C % 64 == 0 (8-bit C % 128 == 0).
    """
    order = _of_dtype("values", values.dtype)
    _check_multiple(
        "values", values.shape[0], 2 * values.shape[1], 64, 128 // values.dtype.itemsize
    )
    return _join(values, meta, order)


def from_cusparselt_sm90(packed: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Undo `to_cusparselt_sm90`: values [rows, columns/2] and our metadata.

    packed may have any shape. Raises ValueError for sizes and dtypes that there are none of.
    """
    order = _of_dtype("packed", packed.dtype)
    _check_multiple("packed", rows, columns, 64, 128 // packed.dtype.itemsize)
    return _split(packed, rows, columns, order)


def _write(meta: Tensor, rows: int, columns: int, order: str, ours: str = META_ORDER) -> Tensor:
    shape = meta_shape24(rows, columns, ours)
    if meta.shape != shape:
        raise ValueError(
            f"meta: shape {tuple(meta.shape)} should be {shape} for a {rows} x {columns} matrix"
        )
    return write_nibbles(nibbles24(meta, rows, columns // 4, ours), order)


def _read(packed: Tensor, rows: int, columns: int, order: str, ours: str = META_ORDER) -> Tensor:
    block_rows, block_groups = block24(order)
    expected = (rows + -rows % block_rows) * (columns + -columns % (4 * block_groups)) // 8
    _check_bytes(packed.numel(), expected, rows, columns)
    nibble_RG = read_nibbles(packed, order, rows, columns // 4)
    return write_nibbles(nibble_RG, ours).reshape(meta_shape24(rows, columns, ours))


def _join(values: Tensor, meta: Tensor, order: str) -> Tensor:
    R, C = values.shape[0], 2 * values.shape[1]
    size = values.dtype.itemsize
    words = _write(meta, R, C, order, meta_order24(values.dtype))
    both = torch.cat([values.contiguous().flatten().view(torch.uint8), words])
    return both.view(values.dtype).reshape(R, C * (4 * size + 1) // (8 * size))


def _split(packed: Tensor, rows: int, columns: int, order: str) -> tuple[Tensor, Tensor]:
    packed = packed.contiguous().flatten()
    size = packed.dtype.itemsize
    _check_bytes(packed.numel() * size, rows * columns // 8 * (4 * size + 1), rows, columns)
    values, words = packed.split([rows * columns // 2, rows * columns // 8 // size])
    ours = meta_order24(packed.dtype)
    meta = _read(words.view(torch.uint8), rows, columns, order, ours)
    return values.reshape(rows, columns // 2), meta


def _of_atom(orders: dict[int, str], atom_k: int) -> str:
    if atom_k not in orders:
        raise ValueError(
            f"atom_k: {atom_k} should be one of {', '.join(map(str, orders))}:"
            " min(tile K, 128) of the product"
        )
    return orders[atom_k]


def _of_dtype(name: str, dtype: torch.dtype) -> str:
    if dtype not in CUSPARSELT_SM90:
        raise ValueError(
            f"{name}: {dtype} should be one of {', '.join(map(str, CUSPARSELT_SM90))}; cast it"
        )
    return CUSPARSELT_SM90[dtype]


def _check_multiple(name: str, rows: int, columns: int, row_block: int, column_block: int) -> None:
    if rows % row_block != 0 or columns % column_block != 0:
        raise ValueError(
            f"{name}: of a {rows} x {columns} matrix, which is not a multiple of"
            f" {row_block} x {column_block}; pad the matrix with zeros before packing"
        )


def _check_bytes(got: int, expected: int, rows: int, columns: int) -> None:
    if got != expected:
        raise ValueError(
            f"packed: {got} bytes should be {expected} for a {rows} x {columns} matrix"
        )
