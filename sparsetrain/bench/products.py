"""The six products of an MLP of T tokens, d features and h hidden features, one operand packed.

    name            what a layer wants         A, packed [M, K]       b [K, N]       (A b).T
    W24 forward     x_Td    @ w1_hd.T = _Th    w1                     x.T   columns  yes
    W24 dX          dz_Th   @ w1_hd   = _Td    w1.T                   dz.T  columns  yes
    act24 forward   h24_Th  @ w2_dh.T = _Td    h24                    w2.T  columns  no
    act24 dW        dy_Td.T @ h24_Th  = _dh    h24.T, along tokens    dy    rows     yes
    dz24 dX         dz24_Th @ w1_hd   = _Td    dz24                   w1    rows     no
    dz24 dW         dz24_Th.T @ x_Td  = _hd    dz24.T, along tokens   x     rows     no

"columns": each column of b is contiguous (along K); "rows": each row is (along N). Every operand
lies as the layer has it, so none is copied. The products are those of autograd/linear.py and
autograd/mlp.py; all tensors are random normal, and what is packed has a transposable mask.

    T tokens   d features   h hidden features
    M rows of the packed matrix   K its columns   N columns of b
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sparsetrain import ops
from sparsetrain.products import BLayout, Problem
from sparsetrain.reference.pack24 import padded_rows

SAMPLES = 512
"""Rows and columns of a result that are compared with float64."""

ERRORS = 2.0
"""A candidate may be this much further off than cuBLAS on the same operand."""


@dataclass(frozen=True)
class Shape:
    """An MLP: tokens of a batch, features in and out, hidden features."""

    tokens: int
    features: int
    hidden: int

    def __str__(self) -> str:
        return f"{self.tokens}x{self.features}x{self.hidden}"


SHAPES = (
    Shape(50432, 768, 3072),  # ViT-B/16, 256 images
    Shape(25216, 1024, 4096),  # ViT-L/16, 128
    Shape(16384, 1280, 5120),  # ViT-H/14, 64
    Shape(12288, 1536, 8192),
    Shape(16384, 4096, 14336),  # a language model
)


@dataclass(frozen=True)
class _Form:
    """Sizes are two letters of T, d and h; `along` is what A runs along: its rows or columns."""

    sparse: str
    along: Literal["rows", "columns"]
    dense: str
    b_layout: BLayout
    transpose_out: bool


_FORMS = {
    "W24 forward": _Form("hd", "rows", "Td", "columns", True),
    "W24 dX": _Form("hd", "columns", "Th", "columns", True),
    "act24 forward": _Form("Th", "rows", "dh", "columns", False),
    "act24 dW": _Form("Th", "columns", "Td", "rows", True),
    "dz24 dX": _Form("Th", "rows", "hd", "rows", False),
    "dz24 dW": _Form("Th", "columns", "Td", "rows", False),
}
PRODUCTS = tuple(_FORMS)
"""The names, in the order of the table above."""


@dataclass(frozen=True)
class Product:
    """One product with its operands.

    name       of PRODUCTS
    shape      of the MLP
    problem    what a kernel is chosen by
    source     [R, C], dense: what the dense layer multiplies
    pruned     [R, C], the same with exact zeros: what is packed
    values     of A: pruned, or its transpose padded to K columns
    meta       of A
    b          [K0, N], a view where `columns`; K0 is K without the padding
    """

    name: str
    shape: Shape
    problem: Problem
    source: Tensor
    pruned: Tensor
    values: Tensor
    meta: Tensor
    b: Tensor

    def native(self) -> Tensor:
        """ops.matmul24."""
        return ops.matmul24(self.values, self.meta, self.b, None, self.problem.transpose_out)

    def dense(self) -> Tensor:
        """What a dense layer runs for the same result."""
        left, right = self.operands(self.source)
        return left @ right

    def dense_transposed(self) -> Tensor:
        """The same numbers as dense, but stored transposed: at times cuBLAS is faster so."""
        left, right = self.operands(self.source)
        return right.T @ left.T

    def masked(self) -> Tensor:
        """What `native` should be: the dense product of the pruned operand."""
        left, right = self.operands(self.pruned)
        return left @ right

    def operands(self, a_RC: Tensor) -> tuple[Tensor, Tensor]:
        """The two factors of the result, views, with `source` or `pruned` as the sparse one."""
        a_MK = a_RC.T if _FORMS[self.name].along == "columns" else a_RC
        return (self.b.T, a_MK.T) if self.problem.transpose_out else (a_MK, self.b)

    @property
    def title(self) -> str:
        return f"{self.name} {self.shape}"

    @property
    def a(self) -> Tensor:
        """The pruned A [M, K0], a view."""
        return self.pruned.T if _FORMS[self.name].along == "columns" else self.pruned

    @property
    def flops(self) -> int:
        """Of the dense product: what TFLOP/s are counted by, for every candidate."""
        return 2 * self.problem.M * self.problem.N * self.b.shape[0]

    def bytes_moved(self, sparse: bool) -> float:
        """That any kernel must move: A (half of it and two bits for each, or dense), b, result."""
        size = self.problem.dtype.itemsize
        M, N, K0 = self.problem.M, self.problem.N, self.b.shape[0]
        a = M * self.problem.K * (size / 2 + 1 / 8) if sparse else M * K0 * size
        return a + size * (K0 * N + M * N)

    def error(self, result: Tensor) -> float:
        """||result - exact|| / ||exact|| over SAMPLES rows and columns spread over the result.

        Exact is the product of the pruned operand in float64. One row and column lies in every
        stretch of 1/SAMPLES of the result, the places drawn with a fixed seed. NaN if any is NaN.
        """
        left, right = self.operands(self.pruned)
        rows, columns = (_spread(n, result.device) for n in result.shape)
        exact = left[rows].double() @ right[:, columns].double()
        return float((result[rows][:, columns].double() - exact).norm() / exact.norm())


def why_wrong(error: float, of_cublas: float) -> str:
    """Why a result with this error is not to be trusted, '' where it is."""
    if error <= ERRORS * of_cublas:
        return ""
    return f"wrong result: error {error:.1e}, where cuBLAS has {of_cublas:.1e}"


def problem_of(name: str, shape: Shape, dtype: torch.dtype) -> Problem:
    """The problem of a product, without making operands."""
    form = _FORMS[name]
    rows, columns = _sizes(form.sparse, shape)
    if form.along == "columns":
        rows, columns = columns, padded_rows(rows)
    first, second = _sizes(form.dense, shape)
    N = second if form.b_layout == "rows" else first
    return Problem(dtype, rows, N, columns, form.b_layout, form.transpose_out)


def make_product(
    name: str, shape: Shape, dtype: torch.dtype, device: torch.device, seed: int = 0
) -> Product:
    """The product with random operands on the device: float16 or bfloat16."""
    form = _FORMS[name]
    generator = torch.Generator(device).manual_seed(seed)
    source, other = (
        torch.randn(_sizes(letters, shape), generator=generator, device=device, dtype=dtype)
        for letters in (form.sparse, form.dense)
    )
    values, meta, values_t, meta_t, mask, _ = ops.sparsify24(source, "transposable")
    return Product(
        name=name,
        shape=shape,
        problem=problem_of(name, shape, dtype),
        source=source,
        pruned=ops.mask24(source, mask),
        values=values_t if form.along == "columns" else values,
        meta=meta_t if form.along == "columns" else meta,
        b=other.T if form.b_layout == "columns" else other,
    )


def _sizes(letters: str, shape: Shape) -> tuple[int, int]:
    size = {"T": shape.tokens, "d": shape.features, "h": shape.hidden}
    return size[letters[0]], size[letters[1]]


def _spread(size: int, device: torch.device) -> Tensor:
    """A random place in each of up to SAMPLES equal stretches of `size`."""
    count = min(size, SAMPLES)
    edges = torch.arange(count + 1) * size // count
    generator = torch.Generator().manual_seed(size)
    return (edges[:-1] + (torch.rand(count, generator=generator) * edges.diff()).long()).to(device)
