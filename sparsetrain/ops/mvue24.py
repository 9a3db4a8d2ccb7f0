"""mvue24: an unbiased 2:4 sample of a gradient along tokens."""

import torch
from torch import Tensor

from sparsetrain.ops.checks import check_cuda, check_device, check_groups, check_scalar
from sparsetrain.ops.pack_into24 import empty_forms24
from sparsetrain.ops.register import register
from sparsetrain.reference.mvue24 import mvue24 as reference


def _check(x: Tensor, seed: Tensor) -> None:
    check_groups("x", x)
    check_cuda("x", x)
    check_scalar("seed", seed, torch.int64)
    check_device("seed", seed, "x", x)


_op = register(
    "mvue24(Tensor x, Tensor seed) -> (Tensor values_t, Tensor meta_t)",
    check=_check,
    fake=lambda x, seed: empty_forms24(x, columns=True)[2:4],
    kernel=reference,
)


def mvue24(x: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
    """Sample x to 2:4 along its rows (tokens) without bias and with the least variance.

    x      [R, C], C % 4 == 0; every four consecutive rows of a column are a group
    seed   int64, one element, on x's device, so that a CUDA graph can replay with another

    Returns values_t [C, R128/2] and meta_t uint8 [R128/64, ceil(C/64), 512], the packed transpose
    (reference/pack24.py). Unbiased in float32; 16-bit values are then rounded to nearest, which may
    move one by half a step. The same x and seed give the same sample. A group that is not finite
    comes out not finite. Chmiel et al., ICLR 2023; the sampler is in reference/mvue24.py.
    Kernels for CUDA take float32, bfloat16 and float16.
    Raises ValueError for what it does not take.
    """
    return _op(x, seed)
