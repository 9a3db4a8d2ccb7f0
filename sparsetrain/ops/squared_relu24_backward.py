"""squared_relu24_backward: the gradient of relu(z)², packed where the activation lies."""

import torch
from torch import Tensor

from sparsetrain.ops.checks import check_device, check_groups, check_packed, check_same_dtype
from sparsetrain.reference.squared_relu24 import squared_relu24_backward as reference

torch.library.define(
    "sparsetrain::squared_relu24_backward",
    "(Tensor grad_h, Tensor values, Tensor meta, Tensor values_t, Tensor meta_t)"
    " -> (Tensor values, Tensor values_t, Tensor column_sums)",
    tags=torch.Tag.pt2_compliant_tag,
)


def _check(grad_h: Tensor, values: Tensor, meta: Tensor, values_t: Tensor, meta_t: Tensor) -> None:
    check_groups("grad_h", grad_h)
    R, C = grad_h.shape
    check_packed("values", values, "meta", meta, R, C)
    check_packed("values_t", values_t, "meta_t", meta_t, C, (R + 3) // 4 * 4)
    for name, packed in (("values", values), ("values_t", values_t)):
        check_same_dtype(name, packed, "grad_h", grad_h)
        check_device(name, packed, "grad_h", grad_h)


@torch.library.register_fake("sparsetrain::squared_relu24_backward")
def _fake(
    grad_h: Tensor, values: Tensor, meta: Tensor, values_t: Tensor, meta_t: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    sums_dtype = torch.promote_types(grad_h.dtype, torch.float32)
    return (
        values.new_empty(values.shape),
        values_t.new_empty(values_t.shape),
        grad_h.new_empty(grad_h.shape[1], dtype=sums_dtype),
    )


@torch.library.impl("sparsetrain::squared_relu24_backward", "default")
@torch.no_grad()
def _kernel(
    grad_h: Tensor, values: Tensor, meta: Tensor, values_t: Tensor, meta_t: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    _check(grad_h, values, meta, values_t, meta_t)
    return reference(grad_h, values, meta, values_t, meta_t)


def squared_relu24_backward(
    grad_h: Tensor, values: Tensor, meta: Tensor, values_t: Tensor, meta_t: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Give dz = 2 sqrt(h) grad_h at the positions of the packed h = relu(z)², both orientations.

    grad_h                           [R, C], the dtype of values
    values, meta, values_t, meta_t   what squared_relu24 returned

    Returns values [R, C/2] and values_t [C, R4/2] of dz, which go with the same meta and meta_t,
    and column_sums, float32 [C] (float64 for float64): the row orientation of dz summed over
    tokens, the gradient of a bias. Where h is 0, dz is 0. Why h is enough:
    reference/squared_relu24.py. Raises ValueError for what it does not take.
    """
    _check(grad_h, values, meta, values_t, meta_t)
    return torch.ops.sparsetrain.squared_relu24_backward(grad_h, values, meta, values_t, meta_t)
