"""What the tests of the 2:4 products share: operands as they may lie, and the comparison.

The oracle is float64 of the unpacked matrix, pruned entries zero. PyTorch's own error is that of
its float32 result of the same operands (on CUDA from its tensor cores), finished in float32 and
rounded once. All work on the device of their arguments.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import pytest
import torch
from ops_checks import assert_as_accurate_as_torch
from torch import Tensor

from sparsetrain import ops
from sparsetrain.reference.matmul24 import Activation
from sparsetrain.reference.pack24 import unpack24

ELSEWHERE = torch.cuda.is_available() and torch.cuda.get_device_capability() != (9, 0)
needs_hopper = pytest.mark.skipif(ELSEWHERE, reason="needs compute capability 9.0")

devices = pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_hopper])]
)


class Epilogue(NamedTuple):
    """What follows a product."""

    bias: bool = False
    activation: Activation = "none"
    residual: bool = False


EPILOGUES = [
    Epilogue(),
    Epilogue(bias=True),
    Epilogue(bias=True, activation="squared_relu"),
    Epilogue(bias=True, activation="gelu"),
    Epilogue(residual=True),
    Epilogue(bias=True, residual=True),
    Epilogue(bias=True, activation="gelu", residual=True),
]


# Operands


def normal(
    rows: int, columns: int, dtype: torch.dtype, device: str = "cpu", seed: int = 0
) -> Tensor:
    """Give a normal matrix that depends on its arguments only."""
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(rows, columns, generator=generator, device=device).to(dtype)


Packed = tuple[Tensor, Tensor]


def packed(rows: int, columns: int, dtype: torch.dtype, device: str = "cpu") -> Packed:
    """Give values and meta of a normal matrix, scaled so that a product is about 1."""
    x = normal(rows, columns, dtype, device) / max(columns, 1) ** 0.5
    values, meta, *_ = ops.sparsify24(x, "row")
    return values, meta


def packed_both(x: Tensor) -> tuple[Packed, Packed, Tensor]:
    """Give values and meta of x, of its transpose, and x with what was pruned zero."""
    values, meta, values_t, meta_t, mask, _ = ops.sparsify24(x)
    return (values, meta), (values_t, meta_t), ops.mask24(x, mask)


def _filled(rows: int, columns: int, like: Tensor) -> Tensor:
    fill = float("nan") if like.is_floating_point() else 255
    return torch.full((rows, columns), fill, dtype=like.dtype, device=like.device)


def rows_contiguous(x: Tensor) -> Tensor:
    """Give x between rows of NaN, its own at whole 16 bytes."""
    rows, columns = x.shape
    return _filled(rows + 2, (columns + 15) // 8 * 8, x)[1:-1, :columns].copy_(x)


def columns_contiguous(x: Tensor) -> Tensor:
    return rows_contiguous(x.T).T


def neither(x: Tensor) -> Tensor:
    rows, columns = x.shape
    return _filled(2 * rows + 1, 2 * columns + 1, x)[1::2, 1::2].copy_(x)


def odd_rows(x: Tensor) -> Tensor:
    """Give x one element after whole 16 bytes, in rows of no whole 16 bytes."""
    rows, columns = x.shape
    return _filled(rows + 1, columns + 3 + columns % 2, x)[:-1, 1 : 1 + columns].copy_(x)


def odd_columns(x: Tensor) -> Tensor:
    return odd_rows(x.T).T


def one_column(x: Tensor) -> Tensor:
    """Give the first column of x, over and over at the same address."""
    return x[:, :1].contiguous().expand(x.shape)


LAYOUTS = [
    columns_contiguous,
    rows_contiguous,
    neither,
    odd_rows,
    odd_columns,
    one_column,
]
"""How a dense b may lie in memory."""


# Comparison


@contextmanager
def dirty(*shapes: Sequence[int], like: Tensor) -> Iterator[None]:
    """Leave NaN in new tensors, and in free memory that results of these shapes may be given."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        for dtype in (like.dtype, torch.float32):
            used = [
                torch.full((*s,), float("nan"), dtype=dtype, device=like.device) for s in shapes
            ]
            del used
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic)


def torch_product(a: Tensor, b: Tensor) -> Tensor:
    """Give PyTorch's float32 product of 16-bit operands."""
    if a.is_cuda and a.element_size() == 2 and a.numel() * b.numel() > 0:
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()


def finished(
    x: Tensor, bias: Tensor | None, activation: Activation, residual: Tensor | None
) -> Tensor:
    """Give activation(x + bias) + residual in the dtype of x."""
    if bias is not None:
        x = x + bias.to(x.dtype)
    if activation == "squared_relu":
        x = x.clamp(min=0) ** 2
    if activation == "gelu":
        x = 0.5 * x * (1 + torch.erf(x / 2**0.5))
    return x if residual is None else x + residual.to(x.dtype)


class Product:
    """A product of a packed and a dense matrix, in float64 and as PyTorch makes it in float32."""

    def __init__(self, values: Tensor, meta: Tensor, b: Tensor, transpose_out: bool = False):
        a = unpack24(values, meta)[:, : b.shape[0]]
        exact, by_torch = a.double() @ b.double(), torch_product(a, b)
        self.given = values, meta, b
        self.transpose_out = transpose_out
        self.exact = exact.T if transpose_out else exact
        self.by_torch = by_torch.T if transpose_out else by_torch
        self.dtype, self.device = values.dtype, values.device.type
        rows, columns = self.exact.shape
        self.shape = rows, columns

    def bias(self, wanted: bool) -> Tensor | None:
        return normal(1, self.shape[1], self.dtype, self.device, seed=2)[0] if wanted else None

    def check_matmul24(
        self, epilogue: Epilogue = EPILOGUES[0], out_dtype: torch.dtype | None = None
    ) -> None:
        """Hold matmul24 to the oracle."""
        bias, residual = self.bias(epilogue.bias), None
        dtype = out_dtype or self.dtype
        if epilogue.residual:
            residual = normal(*self.shape, dtype, self.device, seed=3)
            if epilogue.bias:
                view = columns_contiguous if epilogue.activation == "none" else odd_rows
                residual = view(residual)
        rest = bias, self.transpose_out, out_dtype, epilogue.activation, residual
        with dirty(self.shape, like=self.given[0]):
            got = ops.matmul24(*self.given, *rest)
        by_torch, exact = (
            finished(x, bias, epilogue.activation, residual) for x in (self.by_torch, self.exact)
        )
        self._hold(got, by_torch.to(dtype), exact)

    def check_all(self) -> None:
        """Hold matmul24 to the oracle, after every epilogue, in both dtypes of a result."""
        for out_dtype in (None, torch.float32):
            for epilogue in EPILOGUES:
                self.check_matmul24(epilogue, out_dtype)

    @staticmethod
    def _hold(got: Tensor, by_torch: Tensor, exact: Tensor) -> None:
        assert got.dtype == by_torch.dtype
        assert got.is_contiguous()
        assert_as_accurate_as_torch(got, by_torch, exact)


def check_sizes(
    sizes: Sequence[tuple[int, int, int]],
    dtype: torch.dtype,
    layout: Callable[[Tensor], Tensor],
    transpose_out: bool,
    check: Callable[[Product], None],
    device: str = "cpu",
) -> None:
    """Check products of M x K by K x N for every (M, N, K), and say which one fails."""
    operands = {(M, K): packed(M, K, dtype, device) for M, _, K in sizes}
    for M, N, K in sizes:
        b = layout(normal(K, N, dtype, device, seed=1))
        try:
            check(Product(*operands[M, K], b, transpose_out))
        except AssertionError as error:
            raise AssertionError(f"M={M} N={N} K={K}: {error}") from error
