"""flips24: how many bits of a mask changed."""

import torch
from torch import Tensor

from sparsetrain.ops.checks import check_bytes, check_device
from sparsetrain.ops.register import register
from sparsetrain.reference.flips24 import flips24 as reference


def _check(mask: Tensor, previous: Tensor) -> None:
    check_bytes("mask", mask, tuple(mask.shape), "as it is")
    check_bytes("previous", previous, tuple(mask.shape), "that of mask")
    check_device("previous", previous, "mask", mask)


_op = register(
    "flips24(Tensor mask, Tensor previous) -> Tensor",
    check=_check,
    fake=lambda mask, previous: mask.new_empty((), dtype=torch.int64),
    kernel=reference,
)


def flips24(mask: Tensor, previous: Tensor) -> Tensor:
    """Count the elements that one of two masks keeps and the other does not.

    mask, previous   uint8 of one shape, as select24 gives them

    Returns an int64 scalar tensor; divided by the number of elements it is the flip rate of
    Hu et al., ICML 2024. Raises ValueError for what it does not take.
    """
    return _op(mask, previous)
