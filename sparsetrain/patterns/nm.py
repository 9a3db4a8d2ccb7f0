"""n:m sparsity: at most n of every m consecutive values."""

from dataclasses import dataclass

from torch import Tensor

from sparsetrain.patterns.ranked import check_counts


@dataclass(frozen=True)
class NM:
    """At most n of every m consecutive values of a row are non-zero.

    Raises ValueError unless 0 < n <= m.
    """

    n: int = 2
    m: int = 4

    def __post_init__(self) -> None:
        check_counts(self, "n", "m")
        if self.n > self.m:
            raise ValueError(f"n:m = {self.n}:{self.m}: n must be at most m")

    @property
    def density(self) -> float:
        """The share of values kept, n / m."""
        return self.n / self.m

    def misfit(self, rows: int, columns: int) -> str:
        """Why a matrix of that size cannot have the pattern along its rows; empty if it can."""
        return f"{columns} columns are not a multiple of {self.m}" if columns % self.m else ""

    def count_violations(self, x: Tensor) -> int:
        """Count the groups of m along the last dimension with more than n non-zeros.

        x: any shape whose last dimension is a multiple of m, else ValueError. NaN is a non-zero.
        """
        if x.dim() == 0 or x.shape[-1] % self.m != 0:
            raise ValueError(
                f"x: the last dimension of shape {tuple(x.shape)} is not a multiple of"
                f" m = {self.m}; pad it with zeros"
            )
        groups = x.reshape(*x.shape[:-1], x.shape[-1] // self.m, self.m)
        return int(((groups != 0).sum(dim=-1) > self.n).sum())

    def holds(self, x: Tensor) -> bool:
        """Tell whether x has the pattern along its last dimension; x as in `count_violations`."""
        return self.count_violations(x) == 0

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"
