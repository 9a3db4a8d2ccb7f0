"""scaled_gelu_matmul24: GELU at the end of a product of 8-bit values, and the result in 8 bits."""

import torch
from torch import Tensor

from sparsetrain.ops.checks import (
    check_alike,
    check_contracts,
    check_device,
    check_packed,
    check_pairs,
    check_shape,
)
from sparsetrain.ops.gelu import check_approximate
from sparsetrain.ops.register import register
from sparsetrain.ops.scale_checks import check_kernel, check_quantized, check_scales
from sparsetrain.reference.gelu import Approximate
from sparsetrain.reference.scaled_gelu_matmul24 import E4M3
from sparsetrain.reference.scaled_gelu_matmul24 import scaled_gelu_matmul24 as reference


def _check(
    values: Tensor,
    meta: Tensor,
    scales: Tensor,
    b: Tensor,
    scales_b: Tensor,
    bias: Tensor | None,
    approximate: str,
    factors_out: Tensor,
) -> None:
    check_quantized("values", values)
    if values.dtype != E4M3:
        raise ValueError(f"values: {values.dtype} is not supported; use float8_e4m3fn")
    check_quantized("b", b)
    rows, columns = check_pairs(values)
    check_packed("values", values, "meta", meta, rows, columns)
    check_contracts(b, columns)
    check_alike("b", b, "values", values)
    check_scales("scales", scales, "values", rows, columns)
    check_scales("scales_b", scales_b, "b.T", b.shape[1], b.shape[0], transposed=True)
    check_shape("factors_out", factors_out, (b.shape[1], 1), "one for each column of b")
    check_approximate(approximate)
    for name, tensor in (("scales", scales), ("scales_b", scales_b), ("factors_out", factors_out)):
        check_device(name, tensor, "values", values)
    if factors_out.dtype != torch.float32:
        raise ValueError(f"factors_out: {factors_out.dtype} should be float32")
    if bias is not None:
        check_shape("bias", bias, (rows,), "the last dimension of what is returned")
        check_device("bias", bias, "values", values)
        if bias.dtype != torch.float32:
            raise ValueError(f"bias: {bias.dtype} should be float32")
    if values.is_cuda and not torch.compiler.is_compiling():
        without = _without_kernel(values, scales, b, scales_b)
        check_kernel("scaled_gelu_matmul24", values, without)


def _without_kernel(values: Tensor, scales: Tensor, b: Tensor, scales_b: Tensor) -> str:
    """Why the kernel for CUDA does not take these, in words."""
    if torch.cuda.get_device_capability(values.device)[0] != 9:
        return " outside compute capability 9.0"
    by_row = tuple(scales.shape) in ((1, 1), (values.shape[0], 1))
    if not by_row or tuple(scales_b.shape) not in ((1, 1), (1, b.shape[1])):
        return " of scales by block"
    return " of rows that are no multiple of 16" if values.shape[0] % 16 else ""


def _fake(values: Tensor, meta: Tensor, scales: Tensor, b: Tensor, *_: object) -> Tensor:
    return values.new_empty(b.shape[1], values.shape[0])


_SCHEMA = (
    "(Tensor values, Tensor meta, Tensor scales, Tensor b, Tensor scales_b, Tensor? bias,"
    " str approximate, Tensor factors_out) -> Tensor"
)
_op = register(f"scaled_gelu_matmul24{_SCHEMA}", check=_check, fake=_fake, kernel=reference)
# The kernel for CUDA calls this one for what it does not take.
register(f"_scaled_gelu_matmul24_reference{_SCHEMA}", check=_check, fake=_fake, kernel=reference)


def scaled_gelu_matmul24(
    values: Tensor,
    meta: Tensor,
    scales: Tensor,
    b: Tensor,
    scales_b: Tensor,
    bias: Tensor | None,
    approximate: Approximate,
    factors_out: Tensor,
) -> Tensor:
    """Give gelu(((A * scales) (b * scales_b)).T + bias) * factors_out in 8 bits: what the next
    product multiplies, without a pass over it.

    values          float8_e4m3fn [M, K/2], and meta, as `quantize24` gives them
    scales          float32 [M, 1], [ceil(M/128), ceil(K/128)] or [1, 1]
    b, scales_b     as in `scaled_matmul24`, float8_e4m3fn
    bias            float32 [M] or None
    approximate     "none" or "tanh", as in `gelu`
    factors_out     float32 [N, 1]: inverse scales of the rows of the result. They are known before
                    the result is, so from a bound of it; what is above 448 becomes 448. The kernel
                    wants |z| factors_out below 1e5, z what GELU is of: a negative z beyond it may
                    give less than 448

    All is float32, rounded once. Returns float8_e4m3fn [N, M], contiguous.
    Raises ValueError for what it does not take. The kernel for CUDA runs on compute capability 9.0
    and takes scales by row or tensor and M that is a multiple of 16; its GELU is in half, off by
    |z| / 2048 + |gelu(z)| / 1024 at most, where e4m3 rounds by |gelu(z)| / 16. The rest runs in
    PyTorch there, which is said once.
    """
    return _op(values, meta, scales, b, scales_b, bias, approximate, factors_out)
