"""What a permutation won."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PermutedLayer:
    """Shares of Σ w² that the masks of a layer keep.

    row: of masks along rows alone, in the order as it was: what masks could keep if they were not
    transposable. before, after: of the masks that its selection chooses.
    """

    name: str
    row: float
    before: float
    after: float


@dataclass(frozen=True)
class PermuteReport:
    """layers: whose masks depend on an order that changed. permuted: how many sets of units were,
    by module and kind. left: why other modules that look alike were left as they are."""

    layers: tuple[PermutedLayer, ...]
    permuted: Mapping[str, int]
    left: Mapping[str, str]

    @property
    def won_back(self) -> float | None:
        """(after − before) / (row − before) of all layers: the share of what transposability costs
        that is won back. None where masks are of rows alone."""
        lost = sum(layer.row - layer.before for layer in self.layers)
        won = sum(layer.after - layer.before for layer in self.layers)
        return won / lost if lost > 1e-9 else None

    @property
    def energy(self) -> tuple[float, float, float]:
        """row, before and after: the mean over the layers."""
        count = max(len(self.layers), 1)
        rows = [(layer.row, layer.before, layer.after) for layer in self.layers]
        row, before, after = (sum(each) / count for each in zip(*rows, strict=True)) if rows else (
            0.0, 0.0, 0.0
        )  # fmt: skip
        return row, before, after

    def summary(self) -> str:
        """One line."""
        if not self.layers:
            why = "".join(f"; {name}: {reason}" for name, reason in list(self.left.items())[:1])
            return f"nothing permuted: no 2:4 layer has units whose order was found to be free{why}"
        row, before, after = self.energy
        line = f"{len(self.layers)} layers keep {after:.2%} of Σ w², before {before:.2%}"
        if self.won_back is None:
            return line
        return f"{line}; rows alone {row:.2%}, {self.won_back:.0%} of the difference won back"

    def __str__(self) -> str:
        wide = max((len(layer.name) for layer in self.layers), default=0)
        kinds = Counter(name.split(" ", 1)[1] for name in self.permuted)
        lines = [self.summary()]
        lines += [f"permuted: {kind} of {count} modules" for kind, count in sorted(kinds.items())]
        lines += [
            f"{x.name:<{wide}}  row {x.row:.4f}  before {x.before:.4f}  after {x.after:.4f}"
            for x in self.layers
        ]
        return "\n".join([*lines, *(f"left: {name}: {why}" for name, why in self.left.items())])
