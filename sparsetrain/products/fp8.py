"""The format of 8-bit 2:4 weights, and their product with a dense operand quantized on the way.

Dimension key:  M rows of the packed matrix   K its columns   N columns of b
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sparsetrain.ops import (
    gelu_backward_quantize,
    gelu_quantize,
    narrow24,
    quantize,
    quantize24,
    quantize_across24,
    quantize_both24,
    scaled_matmul24,
    squared_relu24_backward_quantize,
    squared_relu24_quantize,
)
from sparsetrain.ops.quantize import quantize_joined
from sparsetrain.ops.quantize_across24 import Across24
from sparsetrain.ops.quantize_both24 import Scaled24
from sparsetrain.reference.gelu import Approximate
from sparsetrain.reference.quantize import SCALINGS, Scaling
from sparsetrain.select import Rule

E4M3 = torch.float8_e4m3fn
RESULTS = (torch.float32, torch.bfloat16, torch.float16)
"""Dtypes that products in fp8 have results in."""


class Rows8(NamedTuple):
    """The rows [N, K] of a dense operand in 8 bits, with a scale for each: products read b.T so."""

    q: Tensor
    scales: Tensor


@dataclass(frozen=True)
class FP8:
    """2:4 operands in float8_e4m3fn, and what they are multiplied with; results stay wide.

    scaling: what of a weight shares a scale: `row`, each orientation by its own rows, `block`, 128
        × 128, or `tensor`. 2:4 activations and dense operands have a scale for each row.
    power_of_two: scales are powers of two.

    Products of columns that are not 2:4 (selection `row`) stay dense and wide. All scales are of
    the numbers as they are in that forward or backward (reference/quantize.py).
    Raises ValueError for an unknown scaling, and a power_of_two that is no bool.
    """

    scaling: Scaling = "row"
    power_of_two: bool = False

    def __post_init__(self) -> None:
        if self.scaling not in SCALINGS:
            known = ", ".join(SCALINGS)
            raise ValueError(f"scaling={self.scaling!r}: choose one of {known}")
        if not isinstance(self.power_of_two, bool):
            raise ValueError(f"power_of_two={self.power_of_two!r}: give True or False")

    def check_results(self, dtype: torch.dtype) -> None:
        """Refuse a dtype that its products have no results in."""
        if dtype not in RESULTS:
            raise ValueError(
                f"format={self}: products in fp8 have no results in {dtype}; use float32, or "
                "torch.autocast"
            )

    def pack_rows(self, x_MK: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values, meta and scales of x under a mask of bits, along its rows."""
        return quantize24(x_MK, mask, E4M3, self.scaling, self.power_of_two)

    def pack_both(self, x_MK: Tensor, mask: Tensor) -> Scaled24:
        """`pack_rows` of x and of its transpose."""
        return quantize_both24(x_MK, mask, E4M3, self.scaling, self.power_of_two)

    def pack_across(self, x_MK: Tensor, mask: Tensor, columns: bool) -> Across24:
        """`pack_rows` of x, or of its transpose where `columns`; then `rows` of the other one, with
        its zeros. By row alone."""
        return quantize_across24(x_MK, mask, E4M3, columns, self.power_of_two)

    def narrow(self, values: Tensor, meta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values, meta and scales of rows that are packed in 16 bits, a scale for each row."""
        return narrow24(values, meta, E4M3, self.power_of_two)

    def rows(self, x_NK: Tensor) -> Rows8:
        """The rows of a dense operand; compiled by Inductor in the kernel that makes them."""
        if torch.compiler.is_compiling():
            return Rows8(*quantize_joined(x_NK, E4M3, self.power_of_two))
        return Rows8(*quantize(x_NK, E4M3, "row", self.power_of_two))

    def gelu(self, z_NK: Tensor, approximate: Approximate) -> Rows8:
        """`rows` of gelu(z)."""
        return Rows8(*gelu_quantize(z_NK, approximate, E4M3, self.power_of_two))

    def gelu_backward(
        self, grad_h_NK: Tensor, z_NK: Tensor, approximate: Approximate
    ) -> tuple[Tensor, Tensor, Tensor, Rows8]:
        """What `ops.gelu_backward` gives, and `rows` of its first, the gradient of z."""
        given = grad_h_NK, z_NK, approximate, E4M3, self.power_of_two
        grad_z_NK, h_NK, sums_K, q, scales = gelu_backward_quantize(*given)
        return grad_z_NK, h_NK, sums_K, Rows8(q, scales)

    def squared_relu(
        self, z_MK: Tensor, rule: Rule
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Values, meta and scales of the rows of relu(z)² made 2:4; values_t and meta_t of its
        columns in z's dtype."""
        return squared_relu24_quantize(z_MK, rule, E4M3, self.power_of_two)

    def squared_relu_gradient(
        self, grad_h_MK: Tensor, meta: Tensor, values_t: Tensor, meta_t: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Values and scales of the rows of the gradient of z, values_t of its columns, its sums;
        from what `squared_relu` gave."""
        given = grad_h_MK, meta, values_t, meta_t
        return squared_relu24_backward_quantize(*given, E4M3, self.power_of_two)

    def mm(
        self,
        values: Tensor,
        meta: Tensor,
        scales: Tensor,
        b_KN: Tensor | Rows8,
        bias: Tensor | None,
        transpose_out: bool,
        dtype: torch.dtype,
    ) -> Tensor:
        """A b + bias of a packed A, or its transpose, in `dtype`; b has a scale for each column.

        b: [K, N], or the rows of its transpose in 8 bits.
        """
        b = b_KN if isinstance(b_KN, Rows8) else self.rows(b_KN.T)
        given = values, meta, scales, b.q.T, b.scales.T, bias, transpose_out
        return scaled_matmul24(*given, dtype)
