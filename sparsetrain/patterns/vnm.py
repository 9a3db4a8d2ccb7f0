"""V:N:M sparsity: of every m columns four are kept, the same for v rows, and n:4 in those.

Source: Castro et al., "VENOM", SC 2023, arXiv 2310.02065.

Dimension key:  R rows   C columns   P blocks of v rows   V rows of one   Q blocks of m columns
                M columns of one     K the four columns kept
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsetrain.patterns.ranked import check_counts

_KEPT = 4  # columns of a block, so that what is left of them is n:4


@dataclass(frozen=True)
class VNM:
    """Of every block of v rows and m columns four columns are kept, and n values of their four in
    every row.

    So the kept columns of a block lie beside each other as an n:4 matrix. Raises ValueError unless
    v >= 1, 0 < n < 4 and m > 4.
    """

    v: int = 64
    n: int = 2
    m: int = 8

    def __post_init__(self) -> None:
        check_counts(self, "v", "n", "m")
        if self.n >= _KEPT or self.m <= _KEPT:
            raise ValueError(f"v:n:m = {self}: n must be 1 to 3 of four, and m above 4")

    @property
    def density(self) -> float:
        """The share of values kept, n / m."""
        return self.n / self.m

    def mask(self, score_RC: Tensor, density: float | None = None) -> Tensor:
        """Keep the four columns of each block with the highest sums of scores, and the n highest
        of the four in every row. bool [R, C]; ties keep the first, NaN is lowest.

        density: that of V:N:M is always n / m.
        """
        score_PVQM = torch.nan_to_num(self._blocks(score_RC).double(), nan=-torch.inf)
        columns_PQK = _first(score_PVQM.sum(1), _KEPT)
        columns_PVQK = columns_PQK[:, None].expand(-1, self.v, -1, -1)
        best_PVQN = _first(score_PVQM.gather(3, columns_PVQK), self.n)
        mask = torch.zeros_like(score_PVQM, dtype=torch.bool)
        mask.scatter_(3, columns_PVQK.gather(3, best_PVQN), True)
        return mask.flatten(2, 3).flatten(0, 1)

    def outer(self, mask_RC: Tensor) -> Tensor:
        """The columns of blocks that a mask keeps anything of, whole; bool [R, C]."""
        blocks = self._blocks(mask_RC)
        return blocks.any(1, keepdim=True).expand_as(blocks).flatten(2, 3).flatten(0, 1)

    def misfit(self, rows: int, columns: int) -> str:
        """Why a matrix of that size cannot have the pattern; empty if it can."""
        if rows % self.v or columns % self.m:
            whole = f"whole blocks of {self.v} rows and {self.m} columns"
            fix = f"give a v that divides {rows} and an m that divides {columns}"
            return f"{rows}×{columns} is not {whole}: {fix}"
        return ""

    def why_not(self, mask_RC: Tensor) -> str:
        """What of a mask [R, C] is not of this pattern; empty if nothing."""
        blocks = self._blocks(mask_RC)
        if (blocks.any(1).sum(2) > _KEPT).any():
            return f"keeps more than {_KEPT} columns of a block"
        exact = blocks.sum(3) == self.n
        return "" if exact.all() else f"does not keep {self.n} of every {self.m} along rows"

    def count_violations(self, x: Tensor) -> int:
        """How many blocks of x [R, C] have more than four columns, and how many rows of a block
        more than n values."""
        blocks = self._blocks(x).ne(0)
        wide = blocks.any(1).sum(2) > _KEPT
        return int(wide.sum()) + int((blocks.sum(3) > self.n).sum())

    def holds(self, x: Tensor) -> bool:
        """Whether x [R, C] has the pattern."""
        return self.count_violations(x) == 0

    def _blocks(self, x_RC: Tensor) -> Tensor:
        """[P, V, Q, M], a view."""
        if misfit := self.misfit(*x_RC.shape):
            raise ValueError(f"x: {misfit}")
        return x_RC.unflatten(1, (-1, self.m)).unflatten(0, (-1, self.v))

    def __str__(self) -> str:
        return f"{self.v}:{self.n}:{self.m}"


def _first(score: Tensor, count: int) -> Tensor:
    """The places of the highest scores along the last dimension, in rising order."""
    places = score.sort(dim=-1, descending=True, stable=True).indices[..., :count]
    return places.sort(-1).values
