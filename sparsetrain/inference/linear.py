"""A linear layer for inference: its 2:4 weight is packed once, and there is no dense one.

    y_TO = x_TI @ w24_OI.T + bias

Dimension key:  T tokens   I inputs   O outputs
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sparsetrain.autograd.inputs import autocast_device
from sparsetrain.inference.held import HoldsPacked
from sparsetrain.nn.leaf import traced
from sparsetrain.ops import (
    empty_forms24,
    matmul24,
    pack_into24,
    quantize,
    quantize24,
    scaled_gelu_matmul24,
    scaled_matmul24,
)
from sparsetrain.products import NATIVE, Product
from sparsetrain.products.fp8 import RESULTS
from sparsetrain.reference.gelu import Approximate
from sparsetrain.reference.masks24 import pack_bits
from sparsetrain.reference.pack24 import EIGHT_BITS
from sparsetrain.reference.quantize import LARGEST, LEAST_AMAX
from sparsetrain.reference.quantize import quantize as quantize_in_graph

DTYPES = (torch.float8_e4m3fn, torch.int8, torch.bfloat16, torch.float16)
"""Those that values are packed in."""


class PackedLinear(HoldsPacked):
    """A linear layer whose weight is 2:4 and packed (reference/pack24.py), for inference alone.

    values   [O, I/2] in one of DTYPES
    meta     uint8, where the values lie in their row
    scales   float32 [O, 1] of 8-bit values; None of 16-bit ones
    bias     [O] or None, a parameter without gradient
    product  what multiplies 16-bit values; 8-bit ones go to ops.scaled_matmul24, and to
             ops.scaled_gelu_matmul24 before GELU

    With 8-bit values each row of the input (each token) is quantized in the forward with a scale of
    its own, and the result is in the input's dtype, or autocast's: float32, bfloat16 or float16.
    With 16-bit values the input has their dtype, or autocast gives it. Sums are float32, rounded
    once, after the bias.

    `.to(dtype)` changes the bias alone, `.to(device)` all. The packed tensors are no buffers
    (`held.py`). In training mode, and for an input that wants a gradient, the forward raises
    RuntimeError.
    """

    bias: nn.Parameter | None
    weight = None  # T5's MLP casts to its dtype where it is a tensor

    def __init__(
        self,
        values: Tensor,
        meta: Tensor,
        scales: Tensor | None,
        bias: Tensor | None,
        product: Product = NATIVE,
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = values.shape[0], 2 * values.shape[1]
        self.product = product
        self.values, self.meta, self.scales = values, meta, scales
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self.eval()

    @classmethod
    @torch.inference_mode(False)  # under it a state dict could not be loaded later
    @torch.no_grad()
    def pack(
        cls, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, product: Product = NATIVE
    ) -> PackedLinear:
        """From a weight [O, I] with at most two non-zeros in every four of a row, I % 4 == 0.

        8-bit values are quantized from the weight as it is, 16-bit ones rounded once.
        """
        mask = pack_bits(weight != 0)
        if dtype in EIGHT_BITS:
            return cls(*quantize24(weight, mask, dtype), bias)
        weight = weight.to(dtype)
        values, meta, *_ = pack_into24(weight, mask, "row", *empty_forms24(weight, rows=True))
        assert values is not None, "asked for"
        assert meta is not None, "asked for"
        return cls(values, meta, None, bias, product)

    def forward(self, input: Tensor) -> Tensor:
        if (node := traced(self, input)) is not None:
            return node
        check_inference(self, input)
        check_features(input, self.in_features)
        return by_tokens(self.of_tokens, input, self.result_dtype(input))

    def result_dtype(self, x: Tensor) -> torch.dtype:
        """That of the layer of x: of 16-bit values theirs, of 8-bit ones that of x or autocast."""
        return _dtype_in_16(x, self.values) if self.scales is None else _dtype_in_8(x)

    def of_tokens(self, x_TI: Tensor) -> Tensor:
        """The layer of a matrix, in its dtype."""
        if self.scales is not None:
            return self.of_rows(*self.rows_of(x_TI), x_TI.dtype)
        values, meta, _ = self.weight_at(x_TI)
        bias = None if self.bias is None else self.bias.to(x_TI.dtype)
        return self.product.mm(values, meta, x_TI.T, bias, True)

    @property
    def ends_with_gelu(self) -> bool:
        """Whether a product of it can end with GELU as fast as without: rows of 16 bytes, or of 16
        values of 8 bits."""
        if self.scales is None:
            return self.out_features % 8 == 0 and self.in_features % 8 == 0
        return self.packed_dtype != torch.int8 and self.out_features % 16 == 0

    def gelu_of_tokens(self, x_TI: Tensor) -> Tensor:
        """Exact GELU of the layer, of 16-bit values and native products, of a matrix."""
        x_TI = x_TI.contiguous()
        values, meta, _ = self.weight_at(x_TI)
        bias = None if self.bias is None else self.bias.to(x_TI.dtype)
        return matmul24(values, meta, x_TI.T, bias, True, None, "gelu")

    def rows_of(self, x_TI: Tensor) -> tuple[Tensor, Tensor]:
        """x in 8 bits, as the weight is, and a scale for each row [T, 1]. Compiled, it is part of
        the graph and is fused with what x comes from."""
        quantized = quantize_in_graph if torch.compiler.is_compiling() else quantize
        return quantized(x_TI, self.packed_dtype, "row", False)

    def of_rows(self, q_TI: Tensor, scales_T1: Tensor, dtype: torch.dtype) -> Tensor:
        """The layer, of 8-bit values, of a matrix in their dtype with a scale for each row."""
        values, meta, scales = self.weight_at(q_TI)
        assert scales is not None, "16-bit values multiply 16-bit ones"
        bias = None if self.bias is None else self.bias.to(dtype)
        return scaled_matmul24(values, meta, scales, q_TI.T, scales_T1.T, bias, True, dtype)

    def gelu_of_rows(
        self, q_TI: Tensor, scales_T1: Tensor, approximate: Approximate
    ) -> tuple[Tensor, Tensor]:
        """GELU of the layer of float8_e4m3fn rows, as such rows [T, O] and their scales [T, 1].

        A scale is that of a bound of its row: 448 times the scale of x is its largest magnitude,
        so |z| <= 448 scale max_o(sum |w_o|) + max |b|, and GELU is no larger. float8_e4m3fn has 15
        powers of two of normal numbers, so what is 1/16,000 of the bound still has all its bits.
        """
        values, meta, scales = self.weight_at(q_TI)
        assert scales is not None, "16-bit values have a GELU of their own"
        bias = None if self.bias is None else self.bias.float()
        largest = LARGEST[values.dtype]
        reach = scales_T1 * (values.float().abs().sum(1, keepdim=True) * scales).amax()
        reach = reach if bias is None else reach + bias.abs().amax() / largest
        scales_h = reach.clamp(min=LEAST_AMAX / largest)
        given = values, meta, scales, q_TI.T, scales_T1.T, bias, approximate, scales_h.reciprocal()
        return scaled_gelu_matmul24(*given), scales_h

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, 2:4 {short(self.values.dtype)}"
        )


def by_tokens(function: Callable[[Tensor], Tensor], x: Tensor, dtype: torch.dtype) -> Tensor:
    """function of x [..., I] as rows [T, I] in `dtype`, outside autocast, as [..., O]."""
    rows = x.to(dtype).flatten(0, -2) if x.ndim > 1 else x.to(dtype)[None]
    with torch.autocast(autocast_device(x), enabled=False):
        out = function(rows)
    return out.unflatten(0, x.shape[:-1]) if x.ndim > 1 else out[0]


def check_inference(module: nn.Module, input: Tensor) -> None:
    """Refuse training mode, and an input that wants a gradient. Raises RuntimeError."""
    kind = type(module).__name__
    if module.training:
        raise RuntimeError(
            f"{kind} is for inference: call model.eval(), and train the model that was quantized"
        )
    if torch.is_grad_enabled() and input.requires_grad:
        raise RuntimeError(
            f"{kind} has no backward: run the model under torch.inference_mode(), and train the "
            "model that was quantized"
        )


def check_features(x: Tensor, features: int) -> None:
    """Refuse an x that is not [..., features]; a product would take some that are narrower."""
    if x.ndim < 1 or x.shape[-1] != features:
        raise ValueError(
            f"x {tuple(x.shape)}: expected [..., {features}], as the packed weight has"
        )


def _dtype_in_16(x: Tensor, values: Tensor) -> torch.dtype:
    """That of the products of 16-bit values: theirs, which x has or autocast gives it."""
    dtype = _dtype_of(x)
    if dtype == values.dtype:
        return dtype
    fix = f"torch.autocast(…, dtype={values.dtype}), or quantize the model with dtype={dtype}"
    if dtype != x.dtype:
        raise ValueError(
            f"autocast is in {dtype} and the packed weight is {values.dtype}: use {fix}"
        )
    fix = fix if dtype in DTYPES else f"torch.autocast(…, dtype={values.dtype})"
    raise ValueError(
        f"x is {dtype} and the packed weight {values.dtype}, which .to(dtype) leaves as it is: "
        f"give x in {values.dtype}, use {fix}"
    )


def _dtype_of(x: Tensor) -> torch.dtype:
    """That of x, or of autocast, which leaves float64 alone."""
    device = autocast_device(x)
    on = torch.is_autocast_enabled(device) and x.dtype != torch.float64
    return torch.get_autocast_dtype(device) if on else x.dtype


def short(dtype: torch.dtype) -> str:
    """'int8' of torch.int8."""
    return str(dtype).removeprefix("torch.")


def _dtype_in_8(x: Tensor) -> torch.dtype:
    dtype = _dtype_of(x)
    if dtype not in RESULTS:
        raise ValueError(
            f"x is {dtype}: 8-bit products give float32, bfloat16 or float16; convert x"
        )
    return dtype
