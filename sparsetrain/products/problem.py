"""A product as numbers, and what `tune` measured of it.

Dimension key:  M rows of the packed matrix   K its columns   N columns of the dense matrix b
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch

BLayout = Literal["columns", "rows"]
"""Which of b[K, N] lies together in memory: its columns (K contiguous) or its rows (N)."""

ProductEngine = Literal["native", "dense", "cusparselt"]
"""`dense` multiplies the pruned matrix with its zeros, in cuBLAS."""

PRODUCT_ENGINES: tuple[ProductEngine, ...] = get_args(ProductEngine)
B_LAYOUTS: tuple[BLayout, ...] = get_args(BLayout)
DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float8_e4m3fn": torch.float8_e4m3fn,
    "int8": torch.int8,
}

DENSE_FLOPS_PER_US = 720e6
LAUNCH_US = 5.0
LEAST_GAIN = 1.1
"""Of a product that was not measured: what cuBLAS does on an H200 at its power limit, what a launch
of the native kernel costs beside the library's model of it, the least speed-up that is believed.
Fitted to 200 random products on one H200 (2026-11-22, docs/kernels/matmul24.md): 48 of them are
taken to be native, and each was at least 1.15 times as fast as dense.
"""


@dataclass(frozen=True)
class Problem:
    """A[M, K] @ b[K, N], A packed. All that the choice may depend on.

    dtype: that of A and b, one of DTYPES; 8-bit ones have results in 16 bits.
    transpose_out: the result is [N, M]. wide: the result is float32.
    """

    dtype: torch.dtype
    M: int
    N: int
    K: int
    b_layout: BLayout
    transpose_out: bool = False
    wide: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES.values():
            raise ValueError(f"dtype={self.dtype}: a problem is of {', '.join(DTYPES)}")
        if self.b_layout not in B_LAYOUTS:
            raise ValueError(f"b_layout={self.b_layout!r}: choose one of {', '.join(B_LAYOUTS)}")

    @property
    def flops(self) -> int:
        """Those of the dense product: 2·M·N·K."""
        return 2 * self.M * self.N * self.K

    def numbers(self) -> list[int]:
        """As the library's `_matmul24_choice` and `_matmul24_table` count them."""
        dtype = min(list(DTYPES.values()).index(self.dtype), 2)  # the library has one of 8 bits
        layout = B_LAYOUTS.index(self.b_layout)
        return [dtype, self.M, self.N, self.K, layout, int(self.transpose_out), int(self.wide)]

    def __str__(self) -> str:
        words = [f"{self.M}×{self.N}×{self.K}", str(self.dtype).removeprefix("torch.")]
        words.append(f"b by {self.b_layout}")
        words += ["transposed"] * self.transpose_out + ["float32 out"] * self.wide
        return " ".join(words)


@dataclass(frozen=True)
class Config:
    """How the native kernel is run.

    tile: "ROWSxCOLUMNS" of A b that a block computes. cluster_m: blocks below each other, which
    share b. cluster_n: blocks side by side, which share A. group: columns of tiles that are near in
    time. stream_k: whether blocks share tiles along K.
    """

    tile: str
    cluster_m: int
    cluster_n: int
    group: int
    stream_k: bool

    def __post_init__(self) -> None:
        fits = {self.cluster_m, self.cluster_n} <= {1, 2} and 1 <= self.group <= 64
        if not fits:
            raise ValueError(f"config={self}: clusters are of 1 or 2 each way, groups of 1 to 64")

    @classmethod
    def from_numbers(cls, numbers: Sequence[int], tiles: Sequence[str]) -> Config:
        """From a row of the library's `_matmul24_choice`. tiles: their names, by index."""
        tile, cluster_m, cluster_n, group, stream_k = numbers
        return cls(tiles[tile], cluster_m, cluster_n, group, bool(stream_k))

    def numbers(self, tiles: Sequence[str]) -> list[int]:
        """As `_matmul24_table` counts them. Raises ValueError for a tile that is not there."""
        if self.tile not in tiles:
            raise ValueError(f"tile {self.tile!r}: the library has {', '.join(tiles)}")
        tile = tiles.index(self.tile)
        return [tile, self.cluster_m, self.cluster_n, self.group, int(self.stream_k)]

    def __str__(self) -> str:
        end = " stream-k" if self.stream_k else ""
        return f"{self.tile} cluster {self.cluster_m}x{self.cluster_n} group {self.group}{end}"


@dataclass(frozen=True)
class Entry:
    """What `tune` measured of a problem: the fastest, and cuBLAS.

    config: of the native kernel, None where another won. us, dense_us: microseconds.
    """

    engine: ProductEngine
    config: Config | None
    us: float
    dense_us: float

    def __post_init__(self) -> None:
        if self.engine not in PRODUCT_ENGINES:
            known = ", ".join(PRODUCT_ENGINES)
            raise ValueError(f"engine={self.engine!r}: choose one of {known}")
        if (self.engine == "native") != (self.config is not None):
            raise ValueError(f"config={self.config}: an entry has one if its engine is native")

    @property
    def speed_up(self) -> float:
        """Over the dense product."""
        return self.dense_us / self.us
