"""The complaints that several ops share. Each names the argument, its value and what to do."""

import warnings
from functools import cache

import torch
from torch import Tensor

from sparsetrain import native
from sparsetrain.reference.pack24 import (
    EIGHT_BITS,
    PADDED,
    meta_order24,
    meta_shape24,
    padded_rows,
)
from sparsetrain.select import RULES

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def check_dtype(name: str, dtype: torch.dtype | None) -> None:
    """Refuse what is not float32, bfloat16, float16 or float64; None is no choice."""
    if dtype not in (None, *FLOATS):
        raise ValueError(
            f"{name}: {dtype} is not supported; use float32, bfloat16, float16 or float64"
        )


def check_matrix(name: str, x: Tensor) -> None:
    """Refuse what is not a 2-D floating-point matrix."""
    if x.dim() != 2:
        raise ValueError(
            f"{name}: expected 2 dimensions, got shape {tuple(x.shape)};"
            f" flatten the leading ones: {name}.flatten(0, -2)"
        )
    check_dtype(name, x.dtype)


def check_groups(name: str, x: Tensor) -> None:
    """Refuse what is not a floating-point matrix of whole groups of four columns."""
    check_matrix(name, x)
    if x.shape[1] % 4 != 0:
        raise ValueError(
            f"{name}: {x.shape[1]} columns are not a multiple of 4; pad the columns with zeros"
        )


def check_size(rows: int, columns: int) -> None:
    """Refuse the size of a matrix that has no whole groups of four columns."""
    if rows < 0:
        raise ValueError(f"rows: {rows} is negative; use 0 or more")
    if columns < 0 or columns % 4 != 0:
        raise ValueError(f"columns: {columns} is not a multiple of 4, or is negative; round it up")


def check_rule(rule: str) -> None:
    """Refuse a rule that does not exist."""
    if rule not in RULES:
        raise ValueError(f"rule: {rule!r} is unknown; use one of {', '.join(RULES)}")


def check_shape(name: str, x: Tensor, shape: tuple[int, ...], reason: str) -> None:
    """Refuse a shape other than the one the other arguments call for."""
    if tuple(x.shape) != shape:
        raise ValueError(f"{name}: shape {tuple(x.shape)} should be {shape}, {reason}")


def check_bytes(name: str, x: Tensor, shape: tuple[int, ...], reason: str) -> None:
    """Refuse a mask or metadata that is not uint8 of the given shape."""
    if x.dtype != torch.uint8:
        raise ValueError(f"{name}: {x.dtype} should be uint8, as select24 and pack24 make it")
    check_shape(name, x, shape, reason)


def check_mask(name: str, mask: Tensor | None, x: Tensor) -> None:
    """Refuse a mask whose bits are not those of x, or that is elsewhere."""
    if mask is None:  # as `layer.mask` is where masks last one step
        raise ValueError(f"{name}: None; select24(x) gives one, and a layer's current_mask()")
    rows, columns = x.shape
    check_bytes(name, mask, (rows, (columns + 7) // 8), "one bit per element of x")
    check_device(name, mask, "x", x)


def check_packed(
    values_name: str, values: Tensor, meta_name: str, meta: Tensor, rows: int, columns: int
) -> None:
    """Refuse a packed form that is not that of a [rows, columns] matrix."""
    reason = "as pack24 makes it for this matrix"  # no sizes: they may be symbolic
    if values.dtype not in EIGHT_BITS:
        check_dtype(values_name, values.dtype)
    check_shape(values_name, values, (rows, columns // 2), reason)
    shape = meta_shape24(rows, columns, meta_order24(values.dtype))
    check_bytes(meta_name, meta, shape, reason)
    check_device(meta_name, meta, values_name, values)


def check_pairs(values: Tensor) -> tuple[int, int]:
    """Refuse packed values that are not two per group; give the size of the matrix."""
    if values.dim() != 2:
        check_matrix("values", values)
    if values.shape[1] % 2 != 0:
        raise ValueError(
            f"values: {values.shape[1]} columns are not two per group; pass what pack24 returns"
        )
    return values.shape[0], 2 * values.shape[1]


def check_product(values: Tensor, meta: Tensor, b: Tensor) -> None:
    """Refuse a packed matrix and a dense one that do not multiply."""
    check_matrix("values", values)
    check_cuda("values", values)
    check_matrix("b", b)
    rows, columns = check_pairs(values)
    check_packed("values", values, "meta", meta, rows, columns)
    check_contracts(b, columns)
    check_alike("b", b, "values", values)


def check_contracts(b: Tensor, columns: int) -> None:
    """Refuse a b whose rows are not the columns of a packed matrix."""
    # In this order torch.compile keeps no guard on tokens that are a multiple of 128.
    if padded_rows(b.shape[0]) != columns and b.shape[0] != columns:
        raise ValueError(
            f"b: {b.shape[0]} rows do not fit a packed matrix of {columns} columns; pass {columns},"
            f" or the rows of the matrix whose transpose was padded to a multiple of {PADDED}"
        )


def product_shape(values: Tensor, b: Tensor, transpose_out: bool) -> tuple[int, int]:
    """Give the shape of a product of a packed matrix and a dense one."""
    M, N = values.shape[0], b.shape[1]
    return (N, M) if transpose_out else (M, N)


def check_bias(bias: Tensor | None, values: Tensor, b: Tensor, transpose_out: bool) -> None:
    """Refuse a bias that is not one number for each column of the product."""
    if bias is not None:
        length = product_shape(values, b, transpose_out)[1]
        check_shape("bias", bias, (length,), "the last dimension of what is returned")
        check_alike("bias", bias, "values", values)


def check_device(name: str, x: Tensor, other_name: str, other: Tensor) -> None:
    """Refuse two tensors on different devices."""
    if x.device != other.device:
        raise ValueError(
            f"{name}: on {x.device}, but {other_name} is on {other.device}; move one of them"
        )


def check_same_dtype(name: str, x: Tensor, other_name: str, other: Tensor) -> None:
    """Refuse two tensors of different dtypes."""
    if x.dtype != other.dtype:
        raise ValueError(f"{name}: {x.dtype}, but {other_name} is {other.dtype}; cast one of them")


def check_alike(name: str, x: Tensor, other_name: str, other: Tensor) -> None:
    """Refuse two tensors of different dtypes or on different devices."""
    check_same_dtype(name, x, other_name, other)
    check_device(name, x, other_name, other)


def check_scalar(name: str, x: Tensor, dtype: torch.dtype) -> None:
    """Refuse what is not one element of a dtype."""
    if x.dtype != dtype or x.numel() != 1:
        raise ValueError(
            f"{name}: {x.dtype} of shape {tuple(x.shape)} should be one element;"
            f" use torch.tensor([value], dtype={dtype})"
        )


def check_cuda(name: str, x: Tensor) -> None:
    """Refuse a dtype that no CUDA kernel takes; without kernels, say so once."""
    if not x.is_cuda or torch.compiler.is_compiling():
        return
    library = native.load()
    if library.path is None:
        _tell_of_missing_kernels(library.reason, library.fix)
    elif x.dtype == torch.float64:
        raise ValueError(
            f"{name}: torch.float64 has no CUDA kernel; use float32, bfloat16 or float16,"
            " or a CPU tensor"
        )


@cache
def _tell_of_missing_kernels(reason: str, fix: str) -> None:
    warnings.warn(
        f"ops on CUDA tensors run in plain PyTorch, slowly: {reason}; {fix}", stacklevel=6
    )
