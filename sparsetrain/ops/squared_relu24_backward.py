"""squared_relu24_backward: the gradient of relu(z)², packed where the activation lies."""

from typing import Any

import torch
from torch import Tensor

from sparsetrain.ops.checks import check_alike, check_cuda, check_groups, check_packed, check_rule
from sparsetrain.ops.register import register
from sparsetrain.reference.pack24 import padded_rows
from sparsetrain.reference.squared_relu24 import squared_relu24_backward as reference
from sparsetrain.select import Rule


def _check(
    grad_h: Tensor, values: Tensor, meta: Tensor, values_t: Tensor, meta_t: Tensor, rule: str
) -> None:
    check_groups("grad_h", grad_h)
    check_cuda("grad_h", grad_h)
    check_rule(rule)
    R, C = grad_h.shape
    check_packed("values", values, "meta", meta, R, C)
    check_packed("values_t", values_t, "meta_t", meta_t, C, padded_rows(R))
    check_alike("values", values, "grad_h", grad_h)
    check_alike("values_t", values_t, "grad_h", grad_h)


def _fake(
    grad_h: Tensor, values: Tensor, meta: Tensor, values_t: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    sums_dtype = torch.promote_types(grad_h.dtype, torch.float32)
    sums = grad_h.new_empty(grad_h.shape[1], dtype=sums_dtype)
    return values.new_empty(values.shape), values_t.new_empty(values_t.shape), sums


_op = register(
    "squared_relu24_backward(Tensor grad_h, Tensor values, Tensor meta, Tensor values_t,"
    " Tensor meta_t, str rule) -> (Tensor values, Tensor values_t, Tensor column_sums)",
    check=_check,
    fake=_fake,
    kernel=lambda *given: reference(*given[:-1]),  # without the rule
)


def squared_relu24_backward(
    grad_h: Tensor, values: Tensor, meta: Tensor, values_t: Tensor, meta_t: Tensor, rule: Rule
) -> tuple[Tensor, Tensor, Tensor]:
    """Give dz = 2 sqrt(h) grad_h at the positions of the packed h = relu(z)², both orientations.

    grad_h                           [R, C], the dtype of values
    values, meta, values_t, meta_t   what squared_relu24 returned
    rule                             the one squared_relu24 was given: where both orientations have
                                     one mask, a kernel makes values_t from values and meta, so
                                     with another rule than that its result would be wrong

    Returns values [R, C/2] and values_t [C, R128/2] of dz, which go with the same meta and meta_t,
    and column_sums, float32 [C] (float64 for float64): the row orientation of dz summed over
    tokens, the gradient of a bias. Where h is 0, dz is 0. Why h is enough:
    reference/squared_relu24.py. Kernels for CUDA take float32, bfloat16 and float16.
    Raises ValueError for what it does not take.
    """
    return _op(grad_h, values, meta, values_t, meta_t, rule)
