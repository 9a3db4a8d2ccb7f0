"""The products of an MLP in fp8 or int8: those of bench.products with both operands quantized.

Gradients of weights have no product in 8 bits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from sparsetrain import ops
from sparsetrain.bench.products import Product, Shape, problem_of
from sparsetrain.products import Problem
from sparsetrain.reference.quantize import dequantize

PRODUCTS8 = ("W24 forward", "W24 dX", "act24 forward", "dz24 dX")
"""The names of bench.products that there are in 8 bits."""

E4M3 = torch.float8_e4m3fn


@dataclass(frozen=True)
class Quantized:
    """A product in fp8 or int8 with its operands.

    wide       the same in bfloat16
    values, meta, scales    the packed A, a scale for each row
    b          [N, K0], its rows together, and scales_b [N, 1]
    """

    wide: Product
    values: Tensor
    meta: Tensor
    scales: Tensor
    b: Tensor
    scales_b: Tensor

    @property
    def problem(self) -> Problem:
        """What a kernel is chosen by."""
        return in_8_bits(self.wide.problem, self.values.dtype)

    def native(self) -> Tensor:
        """ops.scaled_matmul24, to bfloat16."""
        transposed = self.problem.transpose_out
        given = self.values, self.meta, self.scales, self.b.T, self.scales_b.T
        return ops.scaled_matmul24(*given, None, transposed)

    def dense(self) -> Tensor:
        """What a dense layer runs for the same result, in bfloat16."""
        return self.wide.dense()

    def masked(self) -> Tensor:
        """What `native` should be: the dense product of what the quantized operands stand for."""
        return self.oracle.masked().bfloat16()

    def error(self, result: Tensor) -> float:
        """As `Product.error`, against float64 of the quantized operands."""
        return self.oracle.error(result)

    @cached_property
    def oracle(self) -> Product:
        """The product of what the quantized operands stand for, in float32."""
        pruned_MK = dequantize(ops.unpack24(self.values, self.meta), self.scales)
        pruned_MK = pruned_MK[:, : self.b.shape[1]]
        pruned = pruned_MK if self.wide.a.is_contiguous() else pruned_MK.T
        return replace(self.wide, pruned=pruned, b=dequantize(self.b, self.scales_b).T)


def quantized(product: Product, dtype: torch.dtype = E4M3) -> Quantized:
    """A product in 8 bits, each operand with a scale for each of its rows along K."""
    packed = ops.narrow24(product.values, product.meta, dtype)
    return Quantized(product, *packed, *ops.quantize(product.b.T, dtype))


def in_8_bits(problem: Problem, dtype: torch.dtype) -> Problem:
    """The same product in 8 bits: b lies column by column, whatever it did in 16 bits."""
    return replace(problem, dtype=dtype, b_layout="columns")


def problem_in(name: str, shape: Shape, dtype: torch.dtype) -> Problem:
    """`bench.products.problem_of`, in float8_e4m3fn too."""
    if dtype == E4M3:
        return in_8_bits(problem_of(name, shape, torch.bfloat16), E4M3)
    return problem_of(name, shape, dtype)
