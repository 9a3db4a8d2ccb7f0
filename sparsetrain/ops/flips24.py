"""flips24: how many bits of a mask changed."""

import torch
from torch import Tensor

from sparsetrain.ops.checks import check_bytes, check_device
from sparsetrain.reference.flips24 import flips24 as reference

torch.library.define(
    "sparsetrain::flips24",
    "(Tensor mask, Tensor previous) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)


def _check(mask: Tensor, previous: Tensor) -> None:
    check_bytes("mask", mask, tuple(mask.shape), "as it is")
    check_bytes("previous", previous, tuple(mask.shape), "that of mask")
    check_device("previous", previous, "mask", mask)


@torch.library.register_fake("sparsetrain::flips24")
def _fake(mask: Tensor, previous: Tensor) -> Tensor:
    return mask.new_empty((), dtype=torch.int64)


@torch.library.impl("sparsetrain::flips24", "default")
@torch.no_grad()
def _kernel(mask: Tensor, previous: Tensor) -> Tensor:
    _check(mask, previous)
    return reference(mask, previous)


def flips24(mask: Tensor, previous: Tensor) -> Tensor:
    """Count the elements that one of two masks keeps and the other does not.

    mask, previous   uint8 of one shape, as select24 gives them

    Returns an int64 scalar tensor; divided by the number of elements it is the flip rate of
    Hu et al., ICML 2024. Raises ValueError for what it does not take.
    """
    _check(mask, previous)
    return torch.ops.sparsetrain.flips24(mask, previous)
