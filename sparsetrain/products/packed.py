"""The packed value: a sparse matrix as its products read it, which says itself what it is.

Gradient functions are written on `mm`, `t_mm` and `dense` and do not ask which form is there:
torch.compile and `save_for_backward` see a frozen spec and flat tensors.

    ctx.spec = w24.spec
    ctx.save_for_backward(x, *w24.for_t_mm().tensors)    # in the forward
    w24 = Packed(ctx.spec, *saved)                       # in the backward

Dimension key:  R rows   C columns (contracted by `mm`)   N columns of b
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sparsetrain.ops import empty_forms24, mask24, pack_into24, select24, unpack24
from sparsetrain.products.dense import dense_product
from sparsetrain.products.fp8 import FP8, Rows8
from sparsetrain.products.product import Product
from sparsetrain.reference.quantize import dequantize
from sparsetrain.select import Selection


@dataclass(frozen=True)
class Spec:
    """What a packed value is, apart from its numbers: how its zeros were chosen (None where there
    are none), what multiplies it, and the dtype of its products where its values are 8-bit."""

    selection: Selection | None
    product: Product
    dtype: torch.dtype | None = None


class Forms(NamedTuple):
    """Which forms to pack: rows for `mm`, columns for `t_mm`, and the dense tensor with zeros."""

    rows: bool
    columns: bool
    dense: bool


BOTH = Forms(rows=True, columns=True, dense=False)


class Packed(NamedTuple):
    """A sparse matrix x24 [R, C] in the forms that were asked for; the others are None.

    values, meta        packed along its rows, for `mm` (reference/pack24.py)
    values_t, meta_t    packed along its columns, for `t_mm`
    dense               [R, C], zeros included
    dense_t             [R, C] under the mask of the columns, where that is another
    scales, scales_t    of 8-bit values and values_t (reference/quantize.py)
    dense8, scales8     8-bit, in place of dense: x24 where the columns are packed, x24.T where the
                        rows are, with a scale for each of its rows
    """

    spec: Spec
    values: Tensor | None = None
    meta: Tensor | None = None
    values_t: Tensor | None = None
    meta_t: Tensor | None = None
    dense: Tensor | None = None
    dense_t: Tensor | None = None
    scales: Tensor | None = None
    scales_t: Tensor | None = None
    dense8: Tensor | None = None
    scales8: Tensor | None = None

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """All but the spec, in order."""
        return self[1:]

    @property
    def dtype(self) -> torch.dtype:
        """That of its products."""
        return self.spec.dtype or self._numbers.dtype

    @property
    def device(self) -> torch.device:
        return self._numbers.device

    @property
    def _numbers(self) -> Tensor:
        forms = self.values, self.values_t, self.dense, self.dense8
        return next(t for t in forms if t is not None)

    @property
    def format(self) -> FP8 | None:
        """What `mm` reads b in; None: in its dtype."""
        return None if self.scales is None else self.spec.product.format

    @property
    def format_t(self) -> FP8 | None:
        """What `t_mm` reads b in; None: in its dtype."""
        return None if self.scales_t is None else self.spec.product.format

    def mm(
        self,
        b_CN: Tensor | Rows8,
        bias: Tensor | None = None,
        transpose_out: bool = False,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """x24 @ b + bias [R, N], or its transpose; sparse where the rows are packed.

        b: [C, N], or the rows of its transpose in 8 bits, where the values have scales.
        """
        if self.values is None or self.meta is None:
            assert isinstance(b_CN, Tensor), "dense products read the dtype's own format"
            return dense_product(self._wide(), b_CN, bias, transpose_out, dtype)
        return self._sparse(self.values, self.meta, self.scales, b_CN, bias, transpose_out, dtype)

    def t_mm(
        self, b_RN: Tensor | Rows8, transpose_out: bool = False, dtype: torch.dtype | None = None
    ) -> Tensor:
        """x24.T @ b [C, N], or its transpose; sparse where the columns are packed.

        b: as in `mm`.
        """
        if self.values_t is not None and self.meta_t is not None:
            values_t, meta_t, scales_t = self.values_t, self.meta_t, self.scales_t
            return self._sparse(values_t, meta_t, scales_t, b_RN, None, transpose_out, dtype)
        dense = self.dense if self.dense_t is None else self.dense_t
        if dense is None:
            assert self.values is not None, "nothing is packed"
            assert self.meta is not None, "values have metadata"
            dense = unpack24(self.values, self.meta)
            if self.scales is not None:
                dense = dequantize(dense, self.scales).to(self.dtype)
        assert isinstance(b_RN, Tensor), "dense products read the dtype's own format"
        return dense_product(dense.T, b_RN, None, transpose_out, dtype)

    def _sparse(
        self,
        values: Tensor,
        meta: Tensor,
        scales: Tensor | None,
        b: Tensor | Rows8,
        bias: Tensor | None,
        transpose_out: bool,
        dtype: torch.dtype | None,
    ) -> Tensor:
        product = self.spec.product
        if scales is None:
            assert isinstance(b, Tensor), "16-bit values are multiplied by 16-bit ones"
            return product.mm(values, meta, b, bias, transpose_out, dtype)
        assert product.format is not None, "8-bit values have a format"
        dtype = dtype or self.dtype
        return product.format.mm(values, meta, scales, b, bias, transpose_out, dtype)

    def narrowed(self) -> Packed:
        """The rows in the format of the product, for `mm`; itself where that has none."""
        format, values, meta = self.spec.product.format, self.values, self.meta
        if format is None or values is None or meta is None or self.scales is not None:
            return self
        values, meta, scales = format.narrow(values, meta)
        spec = Spec(self.spec.selection, self.spec.product, self.dtype)
        return Packed(spec, values, meta, scales=scales)

    @property
    def as_b(self) -> Tensor | Rows8:
        """x24 as the dense operand b [R, C] of another product, beside packed rows."""
        return self._dense8 or self._dense

    @property
    def as_b_t(self) -> Tensor | Rows8:
        """x24.T as the dense operand b [C, R] of another product, beside packed columns."""
        return self._dense8 or self._dense.T

    @property
    def _dense8(self) -> Rows8 | None:
        if self.dense8 is None or self.scales8 is None:
            return None
        return Rows8(self.dense8, self.scales8)

    @property
    def _dense(self) -> Tensor:
        assert self.dense is not None, "its dense form was not asked for"
        return self.dense

    def _wide(self) -> Tensor:
        """x24 in the dtype of its products, where its rows are not packed."""
        if self._dense8 is None:
            return self._dense
        return dequantize(*self._dense8).to(self.dtype)

    def for_b(self) -> Packed:
        """The forms that `as_b` and `as_b_t` read, no more."""
        if self.dense8 is not None:
            return Packed(self.spec, dense8=self.dense8, scales8=self.scales8)
        return Packed(self.spec, dense=self._dense)

    def for_t_mm(self) -> Packed:
        """The forms that `t_mm` reads, no more."""
        if self.values_t is not None:
            kept = {"values_t": self.values_t, "meta_t": self.meta_t, "scales_t": self.scales_t}
            return Packed(self.spec, **kept)
        if self.dense is not None or self.dense_t is not None:
            dense = self.dense if self.dense_t is None else self.dense_t
            return Packed(self.spec, dense=dense)
        return Packed(self.spec, self.values, self.meta, scales=self.scales)


def pack(
    x_RC: Tensor,
    mask: Tensor | None,
    selection: Selection,
    product: Product,
    dtype: torch.dtype,
    forms: Forms = BOTH,
) -> Packed:
    """x under its mask, rounded to `dtype` once, after the choice, in the forms asked for.

    mask: bits as `ops.select24` gives them, chosen by `selection`; None chooses it here, in the
    pass that packs where there is one. Where `product` reads a dense tensor, that is the only form.
    Columns of a selection for rows alone are not 2:4: their products are dense. With a format the
    values are 8-bit, quantized from x as it is.
    """
    product = product.in_dtype(dtype, x_RC.is_cuda)
    if product.format is not None:
        return _pack_8bit(x_RC, mask, selection, product, product.format, dtype, forms)
    spec, rule = Spec(selection, product), selection.rule
    known = x_RC.dtype in (dtype, torch.float32)  # kernels round float32 alone
    if mask is None and not (product.packs and known):
        mask = select24(x_RC, rule)
    if not product.packs:
        assert mask is not None, "chosen above"
        return Packed(spec, dense=mask24(x_RC, mask, dtype=dtype))
    x_RC = x_RC if known else x_RC.to(dtype)
    columns = forms.columns and selection.both
    dense = forms.dense or columns != forms.columns
    new = empty_forms24(x_RC, dtype, rows=forms.rows, columns=columns, dense=dense)
    pack_into24(x_RC, mask, rule if mask is None else "transposable", *new)
    return Packed(spec, *new)


def _pack_8bit(
    x_RC: Tensor,
    mask: Tensor | None,
    selection: Selection,
    product: Product,
    format: FP8,
    dtype: torch.dtype,
    forms: Forms,
) -> Packed:
    mask = select24(x_RC, selection.rule) if mask is None else mask
    one_way = forms.rows != forms.columns
    if forms.dense and one_way and selection.both and format.scaling == "row":
        return _pack_across(x_RC, mask, Spec(selection, product, dtype), format, forms.columns)
    columns = forms.columns and selection.both
    needs_dense = forms.dense or columns != forms.columns
    dense = mask24(x_RC, mask, dtype=dtype) if needs_dense else None
    spec, values_t, meta_t, scales_t = Spec(selection, product, dtype), None, None, None
    if columns:
        values, meta, scales, values_t, meta_t, scales_t = format.pack_both(x_RC, mask)
    else:
        values, meta, scales = format.pack_rows(x_RC, mask)
    packed = Packed(spec, values, meta, values_t, meta_t, dense, None, scales, scales_t)
    return packed if forms.rows else packed._replace(values=None, meta=None, scales=None)


def _pack_across(x_RC: Tensor, mask: Tensor, spec: Spec, format: FP8, columns: bool) -> Packed:
    """Packed in one orientation, and 8-bit with zeros in the other."""
    values, meta, scales, dense8, scales8 = format.pack_across(x_RC, mask, columns)
    if columns:
        kept = {"values_t": values, "meta_t": meta, "scales_t": scales}
    else:
        kept = {"values": values, "meta": meta, "scales": scales}
    return Packed(spec, **kept, dense8=dense8, scales8=scales8)


def unpruned(x_RC: Tensor, product: Product, dtype: torch.dtype) -> Packed:
    """x itself, as a value whose products are dense."""
    return Packed(Spec(None, product.in_dtype(dtype, x_RC.is_cuda)), dense=x_RC.to(dtype))


def pack_columns(values_t: Tensor, meta_t: Tensor, rows: int, product: Product) -> Packed:
    """The value of so many rows that another op (`mvue24`) packed along its columns."""
    spec = Spec(None, product)
    if product.packs:
        return Packed(spec, values_t=values_t, meta_t=meta_t)
    return Packed(spec, dense=unpack24(values_t, meta_t)[:, :rows].T)
