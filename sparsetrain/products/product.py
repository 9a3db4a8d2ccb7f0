"""What multiplies a sparse operand: one of three products, each with the format that it reads.

masked    a dense tensor with zeros, through dense products: every device and dtype, no speed-up
native    2:4 values and metadata through ops.matmul24: sparse tensor cores of compute capability
          9.0 where the kernels are loaded, the plain-PyTorch definition on a CPU
aten      the same packed form through PyTorch's own 2:4 product: compute capability 8.x

`native` with the format FP8 multiplies 8-bit values with scales through ops.scaled_matmul24.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sparsetrain.ops import matmul24
from sparsetrain.products.aten import aten_mm
from sparsetrain.products.dense import HALVES
from sparsetrain.products.fp8 import FP8

Engine = Literal["masked", "native", "aten"]
"""A product as users name it: `engine=` of `sparsify`, recipes and `linear24`."""


@dataclass(frozen=True)
class Product:
    """One of MASKED, NATIVE and ATEN. packs: it reads packed values, not a dense tensor.

    format: of the values of weights, 8-bit with scales; None: their own 16 bits, or float32.
    """

    name: Engine
    format: FP8 | None = None

    def __str__(self) -> str:
        return self.name if self.format is None else f"{self.name}, {self.format}"

    @property
    def packs(self) -> bool:
        return self.name != "masked"

    def in_dtype(self, dtype: torch.dtype, on_gpu: bool) -> Product:
        """This product, or MASKED where it has none in that dtype: GPUs multiply 2:4 in 16 bits.

        With a format, this product; raises ValueError where it has no results in that dtype.
        """
        if self.format is not None:
            self.format.check_results(dtype)
            return self
        narrow = dtype in HALVES
        return self if narrow or (self.name == "native" and not on_gpu) else MASKED

    def mm(
        self,
        values: Tensor,
        meta: Tensor,
        b: Tensor,
        bias: Tensor | None = None,
        transpose_out: bool = False,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """A b + bias of a packed A, or its transpose, in `dtype` (that of values if None)."""
        if self.name == "aten":
            return _in(aten_mm(values, meta, b, bias, transpose_out), dtype)
        # float32 leaves the product without a rounding between.
        wide = torch.float32 if dtype == torch.float32 and b.dtype in HALVES else None
        return _in(matmul24(values, meta, b, bias, transpose_out, wide), dtype)


MASKED, NATIVE, ATEN = Product("masked"), Product("native"), Product("aten")
ENGINES: tuple[Engine, ...] = ("masked", "native", "aten")
PORTABLE = (MASKED, NATIVE)
"""Those that run on a CPU too: `native` as its definition in plain PyTorch."""


def product_of(engine: Engine | Product, format: FP8 | None = None) -> Product:
    """The product of that name. Raises ValueError for an unknown one, and for one that does not
    multiply the format."""
    if isinstance(engine, Product):
        return engine
    if engine not in ENGINES:
        raise ValueError(f"engine={engine!r}: choose one of {', '.join(ENGINES)}")
    if format is not None and engine != "native":
        raise ValueError(f"engine={engine!r}: format={format} is multiplied by engine='native'")
    return Product(engine, format)


def _in(out: Tensor, dtype: torch.dtype | None) -> Tensor:
    # A conversion to its own dtype made torch.compile (2.11) read other numbers.
    return out if dtype in (None, out.dtype) else out.to(dtype)
