"""The complaints of ops on 8-bit values with scales, beside those of checks.py."""

import warnings
from functools import cache

import torch
from torch import Tensor

from sparsetrain.reference.pack24 import EIGHT_BITS
from sparsetrain.reference.quantize import SCALINGS, scale_shape


def check_quantizing(op: str, x: Tensor, dtype: torch.dtype, scaling: str) -> None:
    """Refuse a dtype without scales and an unknown scaling; on CUDA say once that it is slow."""
    if dtype not in EIGHT_BITS:
        raise ValueError(f"dtype: {dtype} is not supported; use float8_e4m3fn or int8")
    if scaling not in SCALINGS:
        raise ValueError(f"scaling: {scaling!r} is unknown; use one of {', '.join(SCALINGS)}")
    check_kernel(op, x)


def check_quantized(name: str, q: Tensor) -> None:
    """Refuse what is not a matrix of 8-bit values."""
    if q.dtype not in EIGHT_BITS:
        raise ValueError(
            f"{name}: {q.dtype} is not supported; use float8_e4m3fn or int8, as quantize makes them"
        )
    if q.dim() != 2:
        raise ValueError(f"{name}: expected 2 dimensions, got shape {tuple(q.shape)}; flatten it")


def check_scales(
    name: str, scales: Tensor, of: str, rows: int, columns: int, transposed: bool = False
) -> None:
    """Refuse scales that are none of a [rows, columns] matrix; transposed: theirs, transposed."""
    if scales.dtype != torch.float32:
        raise ValueError(f"{name}: {scales.dtype} should be float32, as quantize makes them")
    # Blocks last: comparing them would guard sizes.
    shapes = [scale_shape(scaling, rows, columns) for scaling in ("tensor", "row", "block")]
    shapes = [shape[::-1] for shape in shapes] if transposed else shapes
    if all(tuple(scales.shape) != shape for shape in shapes):
        raise ValueError(
            f"{name}: shape {tuple(scales.shape)} is none of {', '.join(map(str, shapes))},"
            f" those of {of} by tensor, row and block{', transposed' * transposed}"
        )


def check_kernel(op: str, x: Tensor, without: str = "") -> None:
    """Say once that an op has no kernel for CUDA tensors; without: for which of its arguments."""
    if not x.is_cuda or torch.compiler.is_compiling():
        return
    if without or not torch._C._dispatch_has_kernel_for_dispatch_key(f"sparsetrain::{op}", "CUDA"):
        _tell_of_missing_kernel(f"{op}{without}")


@cache
def _tell_of_missing_kernel(what: str) -> None:
    warnings.warn(
        f"{what} on CUDA tensors runs in plain PyTorch, slowly: no kernel takes it;"
        " 16-bit values have kernels",
        stacklevel=6,
    )
