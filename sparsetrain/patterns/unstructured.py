"""Unstructured sparsity: any values, so many of them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sparsetrain.patterns.ranked import check_density, highest


@dataclass(frozen=True)
class Unstructured:
    """The share `density` of a matrix is non-zero, wherever its values are largest.

    Raises ValueError unless 0 < density <= 1.
    """

    density: float = 0.1

    def __post_init__(self) -> None:
        check_density(self.density)

    def mask(self, score_RC: Tensor, density: float | None = None) -> Tensor:
        """Keep the highest scores. bool [R, C]; ties keep the first in row-major order.

        density: the share kept, this pattern's if None. At least one is kept.
        """
        return highest(score_RC, self.density if density is None else density)

    def units(self, score_RC: Tensor) -> Tensor:
        """What is kept or pruned as one: each value, [R, C]."""
        return score_RC

    mask_of = mask

    def misfit(self, rows: int, columns: int) -> str:
        """Why a matrix cannot have the pattern; any can."""
        return ""

    def why_not(self, mask_RC: Tensor) -> str:
        """What of a mask [R, C] is not of this pattern, whatever its density; nothing is."""
        return ""

    def count_violations(self, x: Tensor) -> int:
        """How many values [R, C] are non-zero beyond the density."""
        return max(0, int((x != 0).sum()) - max(1, round(self.density * x.numel())))

    def holds(self, x: Tensor) -> bool:
        """Whether x [R, C] has the pattern."""
        return self.count_violations(x) == 0

    def __str__(self) -> str:
        return f"unstructured {self.density:.3g}"
