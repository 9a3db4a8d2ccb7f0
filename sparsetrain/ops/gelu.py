"""gelu: z Φ(z), in one pass at the speed of memory."""

from torch import Tensor

from sparsetrain.ops.checks import check_cuda, check_matrix
from sparsetrain.ops.register import register
from sparsetrain.reference.gelu import APPROXIMATIONS, Approximate
from sparsetrain.reference.gelu import gelu as reference


def check_approximate(approximate: str) -> None:
    """Refuse an approximation that PyTorch does not have."""
    if approximate not in APPROXIMATIONS:
        raise ValueError(
            f"approximate: {approximate!r} is unknown; use one of {', '.join(APPROXIMATIONS)}"
        )


def _check(z: Tensor, approximate: str) -> None:
    check_matrix("z", z)
    check_cuda("z", z)
    check_approximate(approximate)


_op = register(
    "gelu(Tensor z, str approximate='none') -> Tensor",
    check=_check,
    fake=lambda z, approximate: z.new_empty(z.shape),
    kernel=reference,
)


def gelu(z: Tensor, approximate: Approximate = "none") -> Tensor:
    """Give `F.gelu(z)`, the bits that gelu_backward gives for h on the same device.

    z            [R, C], any strides; a matrix that is not contiguous is copied first
    approximate  "none", or "tanh" for the approximation with it

    Returns [R, C] in z's dtype. Kernels for CUDA take float32, bfloat16 and float16; those of
    16-bit types give the number nearest to the exact one or one beside it, far on the left too,
    where 1 + erf has lost its digits (csrc/common/gelu.cuh).
    Raises ValueError for what it does not take.
    """
    return _op(z, approximate)
