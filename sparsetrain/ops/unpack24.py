"""unpack24: the dense matrix of a packed one."""

import torch
from torch import Tensor

from sparsetrain.ops.checks import check_matrix, check_packed
from sparsetrain.reference.pack24 import unpack24 as reference

torch.library.define(
    "sparsetrain::unpack24",
    "(Tensor values, Tensor meta) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)


def _check(values: Tensor, meta: Tensor) -> None:
    check_matrix("values", values)
    if values.shape[1] % 2 != 0:
        raise ValueError(
            f"values: {values.shape[1]} columns are not two per group; pass what pack24 returns"
        )
    check_packed("values", values, "meta", meta, values.shape[0], 2 * values.shape[1])


@torch.library.register_fake("sparsetrain::unpack24")
def _fake(values: Tensor, meta: Tensor) -> Tensor:
    return values.new_empty(values.shape[0], 2 * values.shape[1])


@torch.library.impl("sparsetrain::unpack24", "default")
@torch.no_grad()
def _kernel(values: Tensor, meta: Tensor) -> Tensor:
    _check(values, meta)
    return reference(values, meta)


def unpack24(values: Tensor, meta: Tensor) -> Tensor:
    """Give the dense matrix of a packed one, exact zeros where nothing was kept.

    values   [R, C/2]
    meta     uint8 [ceil(C/64), ceil(R/64), 512], the two positions of a group ascending
             (reference/pack24.py)

    Returns [R, C] in the dtype of values. Raises ValueError for what it does not take.
    """
    _check(values, meta)
    return torch.ops.sparsetrain.unpack24(values, meta)
