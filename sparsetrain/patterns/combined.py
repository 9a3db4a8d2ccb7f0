"""Two levels: blocks of a matrix are zero or not, and those that are not are 2:4.

Dimension key:  R rows   C columns
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparsetrain.patterns.block import Block
from sparsetrain.patterns.nm import NM


@dataclass(frozen=True)
class Combined:
    """Inside the blocks that `block` keeps, `nm` of the values are kept.

    Raises ValueError for another nm than 2:4, and for blocks whose sides are no multiples of 4.
    """

    block: Block = field(default_factory=Block)
    nm: NM = field(default_factory=NM)

    def __post_init__(self) -> None:
        if not isinstance(self.block, Block):
            raise ValueError(f"block={self.block!r}: give blocks, as Block(64, 64, density=0.5)")
        if self.nm != NM(2, 4):
            raise ValueError(f"nm={self.nm}: inside blocks weights can be 2:4; use NM(2, 4)")
        if self.block.rows % 4 or self.block.columns % 4:
            raise ValueError(
                f"block={self.block}: 2:4 has tiles of 4×4; give multiples of 4 as rows and columns"
            )

    @property
    def density(self) -> float:
        """The share of values kept: of blocks, times 2 / 4."""
        return self.block.density * self.nm.density

    def combine(self, inner_RC: Tensor, score_RC: Tensor, density: float | None = None) -> Tensor:
        """The blocks with the highest sums of what an n:m mask keeps of their scores; bool [R, C].

        inner_RC: bool, 2:4 everywhere. density: the share of values kept, this pattern's if None;
        at most all blocks are.
        """
        density = self.density if density is None else density
        kept_RC = torch.where(inner_RC, score_RC, 0)
        blocks_RC = self.block.mask(kept_RC, min(1.0, density / self.nm.density))
        return blocks_RC & inner_RC

    def outer(self, mask_RC: Tensor) -> Tensor:
        """The blocks that a mask keeps anything of, whole; bool [R, C]."""
        kept_PQ = self.block.units(mask_RC) > 0
        kept_RQ = kept_PQ.repeat_interleave(self.block.rows, 0)
        return kept_RQ.repeat_interleave(self.block.columns, 1)

    def misfit(self, rows: int, columns: int) -> str:
        """Why a matrix of that size cannot have the pattern; empty if it can."""
        return self.block.misfit(rows, columns)

    def why_not(self, mask_RC: Tensor) -> str:
        """What of a mask [R, C] is not of this pattern, whatever its density; empty if nothing."""
        kept = mask_RC.unflatten(1, (-1, self.nm.m)).sum(2)
        whole = self.outer(mask_RC)[:, :: self.nm.m]
        if (kept > self.nm.n).any():
            return f"is not {self.nm} along rows"
        return "cuts blocks apart" if (whole & (kept == 0)).any() else ""

    def count_violations(self, x: Tensor) -> int:
        """How many blocks of x [R, C] are beyond the density, and how many groups beyond n:m."""
        return self.block.count_violations(x) + self.nm.count_violations(x)

    def holds(self, x: Tensor) -> bool:
        """Whether x [R, C] has the pattern."""
        return self.count_violations(x) == 0

    def __str__(self) -> str:
        return f"{self.nm} in {self.block}"
