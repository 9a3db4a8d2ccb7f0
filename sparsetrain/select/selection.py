"""Score × solver: which values of a tensor a 2:4 mask keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Rule = Literal["transposable", "transposable_l2", "row", "greedy"]
"""A selection as ops and kernels name it; reference/masks24.py defines each."""

RULES: tuple[Rule, ...] = get_args(Rule)

Solver = Literal["exact", "row", "greedy"]
Score = Literal["magnitude", "squared"]

_RULES: dict[tuple[Solver, Score], Rule] = {
    ("exact", "magnitude"): "transposable",
    ("exact", "squared"): "transposable_l2",
    ("row", "magnitude"): "row",
    ("greedy", "magnitude"): "greedy",
}


@dataclass(frozen=True)
class Selection:
    """How the kept values of a mask are chosen.

    solver: `exact` keeps the best of the 90 masks of each 4×4 tile with two in every row and
        column, so that one mask is 2:4 in both orientations; `row` keeps the two largest of each
        four along a row, in that orientation alone; `greedy` fills tiles by falling magnitude, as
        PyTorch and xFormers do (for comparison).
    score: what is summed over the kept values, `magnitude` or, for `exact` alone, `squared`.

    Raises ValueError for other words, and for a score that the solver does not have.
    """

    solver: Solver = "exact"
    score: Score = "magnitude"

    def __post_init__(self) -> None:
        for name, words in (("solver", Solver), ("score", Score)):
            if getattr(self, name) not in get_args(words):
                known = ", ".join(get_args(words))
                raise ValueError(f"{name}={getattr(self, name)!r}: choose one of {known}")
        if (self.solver, self.score) not in _RULES:
            raise ValueError(
                f"score={self.score!r} with solver={self.solver!r}: two values are the largest by "
                "either score; use score='magnitude'"
            )

    @property
    def rule(self) -> Rule:
        """The word of ops and kernels."""
        return _RULES[self.solver, self.score]

    @property
    def both(self) -> bool:
        """Whether one mask serves a matrix and its transpose."""
        return self.solver != "row"

    @classmethod
    def of_rule(cls, rule: Rule) -> Selection:
        """The selection that ops call `rule`. Raises ValueError for an unknown word."""
        for (solver, score), word in _RULES.items():
            if word == rule:
                return cls(solver, score)
        raise ValueError(f"rule={rule!r}: choose one of {', '.join(RULES)}")

    def __str__(self) -> str:
        return self.solver if self.score == "magnitude" else f"{self.solver} {self.score}"


EXACT = Selection()
SQUARED = Selection(score="squared")
ROW = Selection("row")
GREEDY = Selection("greedy")
