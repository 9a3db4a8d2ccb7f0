"""pack_into24: write a matrix under a 2:4 mask in the forms that products want, in one pass."""

from typing import NamedTuple

import torch
from torch import Tensor

from sparsetrain.ops.checks import (
    check_bytes,
    check_cuda,
    check_device,
    check_dtype,
    check_groups,
    check_mask,
    check_rule,
    check_same_dtype,
    check_shape,
)
from sparsetrain.ops.register import nothing, register
from sparsetrain.reference.pack24 import meta_shape24, padded_rows
from sparsetrain.reference.pack_into24 import pack_into24 as reference
from sparsetrain.select import Rule


class Forms24(NamedTuple):
    """A matrix [R, C] under a 2:4 mask, in the forms that products want; None: not wanted.

    values, meta: packed along its rows; values_t, meta_t: packed along its columns, both as
    `apply24` returns them; dense [R, C]: with zeros. Values and dense are of one dtype.
    """

    values: Tensor | None = None
    meta: Tensor | None = None
    values_t: Tensor | None = None
    meta_t: Tensor | None = None
    dense: Tensor | None = None


def empty_forms24(
    x: Tensor,
    dtype: torch.dtype | None = None,
    *,
    rows: bool = False,
    columns: bool = False,
    dense: bool = False,
) -> Forms24:
    """Uninitialised forms of x [R, C], on its device; dtype: of the values, x's if None."""
    R, C = x.shape
    R128 = padded_rows(R)
    dtype = dtype or x.dtype
    return Forms24(
        x.new_empty(R, C // 2, dtype=dtype) if rows else None,
        x.new_empty(meta_shape24(R, C), dtype=torch.uint8) if rows else None,
        x.new_empty(C, R128 // 2, dtype=dtype) if columns else None,
        x.new_empty(meta_shape24(C, R128), dtype=torch.uint8) if columns else None,
        x.new_empty(R, C, dtype=dtype) if dense else None,
    )


def _check(x: Tensor, mask: Tensor | None, rule: str, *given: Tensor | None) -> None:
    forms = Forms24(*given)
    check_groups("x", x)
    check_cuda("x", x)
    if mask is not None:
        check_mask("mask", mask, x)
    else:
        check_rule(rule)
        if rule == "row" and forms.values_t is not None:
            raise ValueError(
                "rule: 'row' gives each orientation a mask of its own; use transposable, "
                "transposable_l2 or greedy, or pack no columns"
            )
    R, C = x.shape
    R128 = padded_rows(R)
    reason = "as empty_forms24 makes it for x"
    shapes = (R, C // 2), meta_shape24(R, C), (C, R128 // 2), meta_shape24(C, R128), (R, C)
    numbers = next((f for f in (forms.values, forms.values_t, forms.dense) if f is not None), x)
    for name, form, shape in zip(Forms24._fields, forms, shapes, strict=True):
        if form is None:
            continue
        check_device(name, form, "x", x)
        if name.startswith("meta"):
            check_bytes(name, form, shape, reason)
        else:
            check_shape(name, form, shape, reason)
            check_dtype(name, form.dtype)
            check_same_dtype(name, form, "another form", numbers)
        if not form.is_contiguous():
            raise ValueError(f"{name}: strides {form.stride()} are not contiguous; {reason}")
    for name, values, meta in (
        ("meta", forms.values, forms.meta),
        ("meta_t", forms.values_t, forms.meta_t),
    ):
        if (values is None) != (meta is None):
            raise ValueError(f"{name}: values without metadata, or the reverse; pass both")


_op = register(
    "pack_into24(Tensor x, Tensor? mask, str rule, Tensor(a!)? values, Tensor(b!)? meta,"
    " Tensor(c!)? values_t, Tensor(d!)? meta_t, Tensor(e!)? dense) -> ()",
    check=_check,
    fake=nothing,
    kernel=lambda x, mask, rule, *forms: reference(x, mask, rule, forms),
)


def pack_into24(
    x: Tensor,
    mask: Tensor | None,
    rule: Rule,
    values: Tensor | None = None,
    meta: Tensor | None = None,
    values_t: Tensor | None = None,
    meta_t: Tensor | None = None,
    dense: Tensor | None = None,
) -> Forms24:
    """Write x under a mask that keeps at most two of four both ways in the forms that are given,
    as empty_forms24 makes them for x; returns them.

    x       [R, C], C % 4 == 0, any strides
    mask    uint8 [R, ceil(C/8)], as select24 gives it; or None
    rule    by which the mask is chosen from x, in its own dtype, where none is given; "row" only
            where columns are not packed

    What a weight needs between two optimizer steps, always in the same memory, so that a CUDA graph
    finds it. Kernels for CUDA take float32, bfloat16 and float16, into x's own dtype, or from
    float32 into one of the other two. On CUDA tensors with the kernel library a mask is not
    checked, as in apply24. Raises ValueError for what it does not take.
    """
    forms = Forms24(values, meta, values_t, meta_t, dense)
    _op(x, mask, rule, *forms)
    return forms
