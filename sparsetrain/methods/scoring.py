"""What methods that score units of a pattern have in common."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from sparsetrain.methods.ste import STE
from sparsetrain.ops import mask24
from sparsetrain.patterns import Pattern, Scored


@dataclass(frozen=True)
class Scoring(STE):
    """Straight-through products whose pruned weights get no gradient."""

    mvue: bool = field(default=False, init=False, repr=False)  # a sample is of 2:4 weights

    changes_gradient = True

    scored_in_step = ""
    """What of it lives in the optimizer step."""

    @property
    def in_step(self) -> tuple[str, str]:
        return self.scored_in_step, "masks keep the largest magnitudes"

    def looks(self, sparse: bool, due: bool) -> bool:
        return True

    def why_not(self, pattern: Pattern) -> str:
        if isinstance(pattern, Scored):
            return ""
        return (
            f"{type(self).__name__} scores blocks or single values; give pattern=Block(…) or "
            "Unstructured(…), or train this pattern by STE or SRSTE"
        )

    def change_gradient(
        self, grad: Tensor, weight: Tensor, mask: Tensor, scale: Tensor | None
    ) -> None:
        """Zero what the mask prunes."""
        grad.copy_(mask24(grad, mask))
