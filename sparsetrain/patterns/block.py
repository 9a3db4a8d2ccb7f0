"""Block sparsity: whole blocks of a matrix are zero or not.

Dimension key:  R rows   C columns   P block rows   Q block columns
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsetrain.patterns.ranked import check_counts, check_density, highest


@dataclass(frozen=True)
class Block:
    """The share `density` of the blocks [rows, columns] of a matrix is kept, the others are zero.

    balanced: every block row keeps as many blocks, and block columns differ by one at most, so that
        a product has the same work everywhere, forward and backward; else the best blocks of the
        matrix are kept, wherever they are.
    Raises ValueError unless both sides are whole numbers, at least 1, and 0 < density <= 1.
    """

    rows: int = 64
    columns: int = 64
    density: float = 0.2
    balanced: bool = True

    def __post_init__(self) -> None:
        check_counts(self, "rows", "columns")
        check_density(self.density)
        if not isinstance(self.balanced, bool):
            raise ValueError(f"balanced={self.balanced!r}: give True or False")

    def mask(self, score_RC: Tensor, density: float | None = None) -> Tensor:
        """Keep the blocks with the highest sums of scores. bool [R, C]; ties keep the first.

        density: the share of blocks kept, this pattern's if None. Balanced masks are filled by
        falling sums; a row that is left with too few takes a block from one that can take another.
        """
        return self.mask_of(self.units(score_RC), density)

    def units(self, score_RC: Tensor) -> Tensor:
        """The sum of each block, float64 [P, Q]."""
        return self._blocks(score_RC).double().sum((1, 3))

    def mask_of(self, score_PQ: Tensor, density: float | None = None) -> Tensor:
        """As `mask`, of scores of whole blocks [P, Q]."""
        density = self.density if density is None else density
        kept_PQ = _balanced(score_PQ, density) if self.balanced else highest(score_PQ, density)
        kept_RQ = kept_PQ.repeat_interleave(self.rows, 0)
        return kept_RQ.repeat_interleave(self.columns, 1)

    def misfit(self, rows: int, columns: int) -> str:
        """Why a matrix of that size cannot have the pattern; empty if it can."""
        if rows % self.rows or columns % self.columns:
            fix = f"give rows that divide {rows} and columns that divide {columns}"
            return f"{rows}×{columns} is not whole blocks of {self.rows}×{self.columns}: {fix}"
        blocks = columns // self.columns * (1 if self.balanced else rows // self.rows)
        if round(self.density * blocks) < 1:
            what = "a block row" if self.balanced else "it"
            few = f"{blocks} blocks of {self.rows}×{self.columns}, too few to keep"
            return f"{what} has {few} {self.density:g} of them: give smaller blocks, or keep more"
        return ""

    def why_not(self, mask_RC: Tensor) -> str:
        """What of a mask [R, C] is not of this pattern, whatever its density; empty if nothing."""
        kept = self._blocks(mask_RC).ne(0)
        return "cuts blocks apart" if (kept.any(3).any(1) ^ kept.all(3).all(1)).any() else ""

    def count_violations(self, x: Tensor) -> int:
        """How many blocks of x [R, C] are non-zero beyond the density."""
        blocks = self._blocks(x).ne(0).any(3).any(1)
        P, Q = blocks.shape
        allowed = P * max(1, round(self.density * Q)) if self.balanced else self.density * P * Q
        return max(0, int(blocks.sum()) - max(1, round(allowed)))

    def holds(self, x: Tensor) -> bool:
        """Whether x [R, C] has the pattern."""
        return self.count_violations(x) == 0

    def _blocks(self, x_RC: Tensor) -> Tensor:
        """[P, rows, Q, columns], a view."""
        if misfit := self.misfit(*x_RC.shape):
            raise ValueError(f"x: {misfit}")
        return x_RC.unflatten(1, (-1, self.columns)).unflatten(0, (-1, self.rows))

    def __str__(self) -> str:
        return f"{self.rows}×{self.columns}-block {self.density:.3g}"


def _balanced(score_PQ: Tensor, density: float) -> Tensor:
    """By falling score, what its row and column have room for; then rows with room are filled."""
    P, Q = score_PQ.shape
    row = max(1, round(density * Q))
    # Finite, so that differences are; NaN is lowest.
    scores = torch.nan_to_num(score_PQ.double(), -1e300, 1e300, -1e300).cpu()
    kept = torch.zeros(P, Q, dtype=torch.bool)
    rows, columns = [row] * P, _Room(P * row, Q)
    for place in scores.flatten().sort(descending=True, stable=True).indices.tolist():
        p, q = divmod(place, Q)
        if rows[p] and columns.has(q):
            kept[p, q] = True
            rows[p] -= 1
            columns.take(q)
    for p in range(P):
        for _ in range(rows[p]):
            _fill(p, scores, kept, columns)
    return kept.to(score_PQ.device)


class _Room:
    """What block columns have room for, so that together they hold `total` blocks: equally many
    each, and the first ones to ask hold the rest, one more each."""

    def __init__(self, total: int, columns: int) -> None:
        each, self.more = divmod(total, columns)
        self.left = [each] * columns

    def has(self, q: int) -> bool:
        return self.left[q] > 0 or (self.left[q] == 0 and self.more > 0)

    def take(self, q: int) -> None:
        self.more -= self.left[q] == 0
        self.left[q] -= 1


def _fill(p: int, scores: Tensor, kept: Tensor, columns: _Room) -> None:
    """Give row p one block more: it takes block q of row o, which takes block r instead.

    Block columns r have room, and row p holds all of them. A row that does not hold r has more
    blocks than p, so at least one that p has not.
    """
    free = [r for r in range(scores.shape[1]) if columns.has(r)]
    best, chosen = -torch.inf, None
    for r in free:
        for o in (~kept[:, r]).nonzero().flatten().tolist():
            gain = scores[p] - scores[o] + scores[o, r]
            gain = gain.masked_fill(kept[p] | ~kept[o], -torch.inf)
            value, q = gain.max(0)
            if chosen is None or value > best:
                best, chosen = float(value), (int(q), o, r)
    assert chosen is not None, "a column has room"
    q, o, r = chosen
    kept[p, q], kept[o, q], kept[o, r] = True, False, True
    columns.take(r)
