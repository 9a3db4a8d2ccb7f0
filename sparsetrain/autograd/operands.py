"""The sparse operand of a product, in the forms that can be multiplied.

    native    packed values and metadata through ops/: sparse tensor cores where a kernel is
              loaded, the plain-PyTorch definition elsewhere; float32 on a GPU runs masked
    aten      the same packed form through PyTorch's own 2:4 product: compute capability 8.x, 16-bit
              values; other dtypes run masked
    masked    a dense tensor with zeros: CPU and CUDA, same numerics, no speed-up

An operand knows its two products, x24 @ b and x24.T @ b; the gradient files are written with
those and do not see which form runs. They are NamedTuples of tensors so that a gradient
function can save one (`ctx.save_for_backward(*operand)`) and build it again.

Dimension key:  R rows   C columns (contracted by `mm`)   N columns of b
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsetrain.autograd.aten import ATEN_DTYPES, aten_mm
from sparsetrain.ops import (
    empty_forms24,
    mask24,
    matmul24,
    pack24,
    pack_into24,
    select24,
    sparsify24,
    squared_relu24,
    squared_relu24_backward,
    unpack24,
)
from sparsetrain.pattern import Rule

Engine = Literal["masked", "native", "aten"]
ENGINES: tuple[Engine, ...] = ("masked", "native", "aten")
PORTABLE_ENGINES: tuple[Engine, ...] = ("masked", "native")
"""Those that run on a CPU too: `native` as its definition in plain PyTorch."""


class MaskedOperand(NamedTuple):
    """x with its pruned entries zero. `columns` is None where one mask serves both
    orientations."""

    rows_RC: Tensor
    columns_RC: Tensor | None = None

    def mm(self, b_CN: Tensor, bias: Tensor | None = None, transpose_out: bool = False) -> Tensor:
        return _dense_mm(self.rows_RC, b_CN, bias, transpose_out)

    def t_mm(
        self, b_RN: Tensor, transpose_out: bool = False, dtype: torch.dtype | None = None
    ) -> Tensor:
        columns_RC = self.rows_RC if self.columns_RC is None else self.columns_RC
        return _dense_mm(columns_RC.T, b_RN, None, transpose_out, dtype)

    def squared_relu_backward(self, grad_RC: Tensor, rule: Rule) -> tuple[MaskedOperand, Tensor]:
        dtype, wide = grad_RC.dtype, torch.promote_types(grad_RC.dtype, torch.float32)
        rows_RC = _squared_relu_gradient(self.rows_RC.to(wide), grad_RC.to(wide))
        columns_RC = self.columns_RC
        if columns_RC is not None:
            columns_RC = _squared_relu_gradient(columns_RC.to(wide), grad_RC.to(wide)).to(dtype)
        return MaskedOperand(rows_RC.to(dtype), columns_RC), rows_RC.sum(0)


class PackedOperand(NamedTuple):
    """x packed in both orientations."""

    values: Tensor
    meta: Tensor
    values_t: Tensor
    meta_t: Tensor

    def mm(self, b_CN: Tensor, bias: Tensor | None = None, transpose_out: bool = False) -> Tensor:
        return matmul24(self.values, self.meta, b_CN, bias, transpose_out)

    def t_mm(
        self, b_RN: Tensor, transpose_out: bool = False, dtype: torch.dtype | None = None
    ) -> Tensor:
        return _packed_mm(self.values_t, self.meta_t, b_RN, None, transpose_out, dtype)

    def squared_relu_backward(self, grad_RC: Tensor, rule: Rule) -> tuple[PackedOperand, Tensor]:
        values, values_t, column_sums = squared_relu24_backward(grad_RC, *self, rule)
        return PackedOperand(values, self.meta, values_t, self.meta_t), column_sums


class PackedRows(NamedTuple):
    """x packed along its rows only: its mask is not 2:4 along the columns, so x24.T @ b is
    dense."""

    values: Tensor
    meta: Tensor

    def mm(
        self,
        b_CN: Tensor,
        bias: Tensor | None = None,
        transpose_out: bool = False,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        return _packed_mm(self.values, self.meta, b_CN, bias, transpose_out, dtype)

    def t_mm(
        self, b_RN: Tensor, transpose_out: bool = False, dtype: torch.dtype | None = None
    ) -> Tensor:
        return _dense_mm(unpack24(self.values, self.meta).T, b_RN, None, transpose_out, dtype)


class AtenOperand(NamedTuple):
    """x packed in both orientations, as PackedOperand; its products are PyTorch's."""

    values: Tensor
    meta: Tensor
    values_t: Tensor
    meta_t: Tensor

    def mm(self, b_CN: Tensor, bias: Tensor | None = None, transpose_out: bool = False) -> Tensor:
        return aten_mm(self.values, self.meta, b_CN, bias, transpose_out)

    def t_mm(
        self, b_RN: Tensor, transpose_out: bool = False, dtype: torch.dtype | None = None
    ) -> Tensor:
        out = aten_mm(self.values_t, self.meta_t, b_RN, None, transpose_out)
        return _in(out, dtype)

    def squared_relu_backward(self, grad_RC: Tensor, rule: Rule) -> tuple[AtenOperand, Tensor]:
        packed, column_sums = PackedOperand(*self).squared_relu_backward(grad_RC, rule)
        return AtenOperand(*packed), column_sums


class AtenRows(NamedTuple):
    """x packed along its rows only, as PackedRows; its product is PyTorch's."""

    values: Tensor
    meta: Tensor

    def mm(
        self,
        b_CN: Tensor,
        bias: Tensor | None = None,
        transpose_out: bool = False,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        out = aten_mm(self.values, self.meta, b_CN, bias, transpose_out)
        return _in(out, dtype)

    def t_mm(
        self, b_RN: Tensor, transpose_out: bool = False, dtype: torch.dtype | None = None
    ) -> Tensor:
        return PackedRows(*self).t_mm(b_RN, transpose_out, dtype)


ActivationOperand = MaskedOperand | PackedOperand | AtenOperand
WeightOperand = ActivationOperand | PackedRows | AtenRows


def engine_for(engine: Engine, dtype: torch.dtype, on_gpu: bool) -> Engine:
    """The engine of products in a dtype: float32 has no sparse ones on a GPU."""
    narrow = dtype in ATEN_DTYPES
    return engine if narrow or (engine == "native" and not on_gpu) else "masked"


def packed_operand(packed: Sequence[Tensor], engine: Engine) -> PackedOperand | AtenOperand:
    """The operand of what is packed in both orientations."""
    return AtenOperand(*packed) if engine == "aten" else PackedOperand(*packed)


def packed_rows(packed: Sequence[Tensor], engine: Engine) -> PackedRows | AtenRows:
    """The operand of what is packed along its rows."""
    return AtenRows(*packed) if engine == "aten" else PackedRows(*packed)


def saved_operand(saved: Sequence[Tensor], engine: Engine) -> ActivationOperand:
    """The operand of both orientations that a forward saved."""
    return MaskedOperand(*saved) if engine == "masked" else packed_operand(saved, engine)


def saved_weight(saved: Sequence[Tensor], rule: Rule, engine: Engine) -> WeightOperand:
    """The operand of `sparse_weight` that a forward saved."""
    if rule == "row" and engine != "masked":
        return packed_rows(saved, engine)
    return saved_operand(saved, engine)


def sparse_weight(
    weight_OI: Tensor,
    mask: Tensor | None,
    rule: Rule,
    dtype: torch.dtype,
    engine: Engine,
    into: Sequence[Tensor] | None = None,
) -> WeightOperand:
    """The weight under its mask, rounded to `dtype` once, after the choice. mask: None chooses
    it here, in the pass that packs where there is one. into: an earlier operand of the same
    shape, whose memory is written anew where packing can."""
    engine = engine_for(engine, dtype, weight_OI.is_cuda)
    if weight_OI.dtype not in (dtype, torch.float32):  # kernels round float32 alone
        mask = select24(weight_OI, rule) if mask is None else mask
        weight_OI = weight_OI.to(dtype)
    if engine != "masked" and rule != "row":
        if into is None:
            new = empty_forms24(weight_OI, dtype, rows=True, columns=True)
            into = [form for form in new if form is not None]
        pack_into24(weight_OI, mask, rule, *into)
        return packed_operand(into, engine)
    if mask is None:
        mask = select24(weight_OI, rule)
    if engine == "masked":
        return MaskedOperand(mask24(weight_OI, mask, dtype=dtype))
    return packed_rows(pack24(weight_OI.to(dtype), mask), engine)


def sparse_squared_relu(z_TH: Tensor, rule: Rule, engine: Engine) -> ActivationOperand:
    """relu(z)² made 2:4 along features and along tokens."""
    if engine != "masked":
        return packed_operand(squared_relu24(z_TH, rule), engine)
    h_TH = F.relu(z_TH).square()
    if rule != "row":
        return MaskedOperand(mask24(h_TH, select24(h_TH, rule)))
    values, meta, values_t, meta_t, _, _ = sparsify24(h_TH, rule)
    columns_TH = unpack24(values_t, meta_t)[:, : h_TH.shape[0]].T
    return MaskedOperand(unpack24(values, meta), columns_TH)


def _squared_relu_gradient(h_RC: Tensor, grad_RC: Tensor) -> Tensor:
    # Exactly 0 where h is, of an infinite gradient too, as in reference/squared_relu24.py.
    return torch.where(h_RC == 0, 0, 2 * h_RC.sqrt() * grad_RC)


def _packed_mm(
    values: Tensor,
    meta: Tensor,
    b: Tensor,
    bias: Tensor | None,
    transpose_out: bool,
    dtype: torch.dtype | None,
) -> Tensor:
    # float32 leaves the product without a rounding between.
    wide = torch.float32 if dtype == torch.float32 and b.dtype in ATEN_DTYPES else None
    return _in(matmul24(values, meta, b, bias, transpose_out, wide), dtype)


def _in(out: Tensor, dtype: torch.dtype | None) -> Tensor:
    # A conversion to its own dtype made torch.compile (2.11) read other numbers.
    return out if dtype in (None, out.dtype) else out.to(dtype)


def _dense_mm(
    a: Tensor,
    b: Tensor,
    bias: Tensor | None,
    transpose_out: bool,
    dtype: torch.dtype | None = None,
) -> Tensor:
    if dtype in (None, a.dtype):
        return F.linear(b.T, a, bias) if transpose_out else F.linear(a, b.T, bias)
    assert bias is None, "gradients of weights have none"
    return dense_mm(b.T, a.T, dtype) if transpose_out else dense_mm(a, b, dtype)


def dense_mm(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """a @ b in `dtype`; float32 of 16-bit operands leaves a GPU's product without a rounding
    between, and without a second pass."""
    if a.is_cuda and dtype == torch.float32 and a.dtype in ATEN_DTYPES:
        return torch.mm(a, b, out_dtype=torch.float32)
    return (a @ b).to(dtype)
