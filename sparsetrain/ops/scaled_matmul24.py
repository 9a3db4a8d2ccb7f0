"""scaled_matmul24: a packed 2:4 matrix times a dense one, both 8-bit with scales."""

import torch
from torch import Tensor

from sparsetrain.ops.checks import (
    check_alike,
    check_contracts,
    check_device,
    check_packed,
    check_pairs,
    check_shape,
    product_shape,
)
from sparsetrain.ops.register import register
from sparsetrain.ops.scale_checks import check_kernel, check_quantized, check_scales
from sparsetrain.reference.scaled_matmul24 import scaled_matmul24 as reference

OUT = (torch.bfloat16, torch.float16, torch.float32)
LONGEST_INT8 = 1 << 18
"""Columns of a packed int8 matrix whose products may not fit into sums of 32 bits."""


def _check(
    values: Tensor,
    meta: Tensor,
    scales: Tensor,
    b: Tensor,
    scales_b: Tensor,
    bias: Tensor | None,
    transpose_out: bool,
    out_dtype: torch.dtype,
) -> None:
    check_quantized("values", values)
    check_quantized("b", b)
    rows, columns = check_pairs(values)
    check_packed("values", values, "meta", meta, rows, columns)
    check_contracts(b, columns)
    check_alike("b", b, "values", values)
    check_scales("scales", scales, "values", rows, columns)
    check_scales("scales_b", scales_b, "b.T", b.shape[1], b.shape[0], transposed=True)
    check_device("scales", scales, "values", values)
    check_device("scales_b", scales_b, "values", values)
    if out_dtype not in OUT:
        raise ValueError(f"out_dtype: {out_dtype} is not supported; use bfloat16, float16, float32")
    if bias is not None:
        length = product_shape(values, b, transpose_out)[1]
        check_shape("bias", bias, (length,), "the last dimension of what is returned")
        check_device("bias", bias, "values", values)
        if bias.dtype not in (out_dtype, torch.float32):
            raise ValueError(f"bias: {bias.dtype} should be float32 or out_dtype, {out_dtype}")
    if values.is_cuda and not torch.compiler.is_compiling():
        check_kernel("scaled_matmul24", values, _without_kernel(values))


def _without_kernel(values: Tensor) -> str:
    """Why the kernel for CUDA does not take these, in words."""
    if torch.cuda.get_device_capability(values.device)[0] != 9:
        return " outside compute capability 9.0"
    if values.dtype == torch.int8 and 2 * values.shape[1] >= LONGEST_INT8:
        return f" of int8 with {LONGEST_INT8} columns or more"
    return ""


def _fake(
    values: Tensor,
    meta: Tensor,
    scales: Tensor,
    b: Tensor,
    scales_b: Tensor,
    bias: Tensor | None,
    transpose_out: bool,
    out_dtype: torch.dtype,
) -> Tensor:
    return values.new_empty(product_shape(values, b, transpose_out), dtype=out_dtype)


_SCHEMA = (
    "(Tensor values, Tensor meta, Tensor scales, Tensor b, Tensor scales_b, Tensor? bias,"
    " bool transpose_out, ScalarType out_dtype) -> Tensor"
)
_op = register(f"scaled_matmul24{_SCHEMA}", check=_check, fake=_fake, kernel=reference)
# The kernel for CUDA calls this one for what it does not take.
register(f"_scaled_matmul24_reference{_SCHEMA}", check=_check, fake=_fake, kernel=reference)


def scaled_matmul24(
    values: Tensor,
    meta: Tensor,
    scales: Tensor,
    b: Tensor,
    scales_b: Tensor,
    bias: Tensor | None = None,
    transpose_out: bool = False,
    out_dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    """Give (A * scales) (b * scales_b) + bias for a packed A [M, K] and a dense b, both 8-bit.

    values          float8_e4m3fn or int8 [M, K/2], and meta, as `quantize24` gives them
    scales          float32 [M, 1], [ceil(M/128), ceil(K/128)] or [1, 1]
    b               [K0, N] in the dtype of values; K0 is K, or K is K0 padded to a multiple of 128.
                    Tensor cores for 8 bits read it column by column: quantize b.T and transpose
    scales_b        those of b.T, transposed: [1, N], [ceil(K0/128), ceil(N/128)] or [1, 1]
    bias            float32 or out_dtype, added along the last dimension of what is returned
    transpose_out   take the transpose, before the bias
    out_dtype       bfloat16, float16 or float32

    Sums are float32 (int8: exact), multiplied by the scales, rounded once
    (reference/scaled_matmul24.py). Returns [M, N], or [N, M] if transposed, contiguous. A block
    whose scale is not finite gives NaN wherever it is multiplied in.
    Raises ValueError for what it does not take. The kernel for CUDA runs on compute capability 9.0
    and takes int8 of less than 2^18 columns. It sums in the tensor cores: int8 exactly,
    float8_e4m3fn with about 14 bits. int8 with scales by row or tensor gives the definition's bits
    without a bias, and rounds once less with one; scales by block are multiplied with each other
    first. What the kernel does not take runs in PyTorch there, which is said once.
    """
    return _op(values, meta, scales, b, scales_b, bias, transpose_out, out_dtype)
