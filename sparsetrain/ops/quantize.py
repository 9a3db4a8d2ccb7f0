"""quantize: a matrix in 8 bits, with scales."""

import torch
from torch import Tensor

from sparsetrain.ops.checks import check_matrix
from sparsetrain.ops.register import register
from sparsetrain.ops.scale_checks import check_quantizing
from sparsetrain.reference.quantize import Scaling, scale_shape
from sparsetrain.reference.quantize import quantize as reference


def _check(x: Tensor, dtype: torch.dtype, scaling: str, power_of_two: bool) -> None:
    check_matrix("x", x)
    check_quantizing("quantize", x, dtype, scaling)


def _fake(
    x: Tensor, dtype: torch.dtype, scaling: Scaling, power_of_two: bool
) -> tuple[Tensor, Tensor]:
    scales = x.new_empty(scale_shape(scaling, *x.shape), dtype=torch.float32)
    return x.new_empty(x.shape, dtype=dtype), scales


_SCHEMA = (
    "(Tensor x, ScalarType dtype, str scaling='row', bool power_of_two=False)"
    " -> (Tensor q, Tensor scales)"
)
_op = register(f"quantize{_SCHEMA}", check=_check, fake=_fake, kernel=reference)
# The kernel for CUDA calls this one by tensor, and for float64.
register(f"_quantize_reference{_SCHEMA}", check=_check, fake=_fake, kernel=reference)


def _by_row(x: Tensor, dtype: torch.dtype, power_of_two: bool) -> tuple[Tensor, Tensor]:
    return reference(x, dtype, "row", power_of_two)


_joined = register(
    "_quantize_joined(Tensor x, ScalarType dtype, bool power_of_two) -> (Tensor q, Tensor scales)",
    check=lambda x, dtype, power_of_two: _check(x, dtype, "row", power_of_two),
    fake=lambda x, dtype, power_of_two: _fake(x, dtype, "row", power_of_two),
    kernel=lambda x, dtype, power_of_two: _op(x, dtype, "row", power_of_two),
)

JOINED = 2048
"""Values of a row up to which Inductor quantizes it. Its kernel for rows of 3072 ran at half of the
memory's speed (docs/kernels/fp8.md, "A training step")."""


@torch.compiler.assume_constant_result
def _join_in_inductor() -> bool:
    """Called in code that is compiled: has Inductor see `_quantize_joined` as plain operations.

    Other backends run it, and so the kernel of `quantize`. Dynamo sees an op in any case: with its
    plain operations inside an autograd function dynamic sizes fail (torch 2.11).
    """
    from torch._inductor import decomposition

    op = torch.ops.sparsetrain._quantize_joined.default
    if op not in decomposition.decompositions:
        decomposition.register_decomposition([op])(_by_row)
        decomposition.fast_random_decomps.cache_clear()  # a copy of the table
    return True


def quantize_joined(x: Tensor, dtype: torch.dtype, power_of_two: bool) -> tuple[Tensor, Tensor]:
    """`quantize` by row, in code that is compiled: one kernel with what makes x, such as LayerNorm.

    That quantizes x before it is rounded to 16 bits, with quotients that may be two ulp off. Rows
    wider than JOINED are left to the op.
    """
    if x.shape[1] > JOINED:
        return _op(x, dtype, "row", power_of_two)
    _join_in_inductor()
    return _joined(x, dtype, power_of_two)


def quantize(
    x: Tensor, dtype: torch.dtype, scaling: Scaling = "row", power_of_two: bool = False
) -> tuple[Tensor, Tensor]:
    """Quantize x, with scales from its own values; x is about q * scale.

    x              [R, C], any strides
    dtype          torch.float8_e4m3fn or torch.int8
    scaling        what shares a scale: "row", "block", 128 x 128, or "tensor"
    power_of_two   round scales up to powers of two

    Returns q [R, C] in dtype and float32 scales: [R, 1], [ceil(R/128), ceil(C/128)] or [1, 1].
    Rows of zeros, NaN, infinities and saturation: reference/quantize.py. Raises ValueError for what
    it does not take. By tensor, and of float64, it runs in PyTorch on CUDA tensors too.
    """
    return _op(x, dtype, scaling, power_of_two)
