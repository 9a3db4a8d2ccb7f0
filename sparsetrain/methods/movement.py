"""Movement pruning: what moves away from zero is kept.

What it does    adds −w · ∂L/∂w of every step to a score, summed over a block, and keeps the highest
                scores: a weight scores while its gradient makes it larger, however small it is;
                pruned weights get no gradient and keep their score
When            fine-tuning a trained model at low density; from scratch magnitudes serve as well
Cost            a pass over weight and gradient a step; a float32 for each block, or for each weight
Source          Sanh, Wolf, Rush, NeurIPS 2020, arXiv 2005.07683
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sparsetrain.methods.hooks import Seen
from sparsetrain.methods.scoring import Scoring


@dataclass(frozen=True)
class Movement(Scoring):
    """Masks by accumulated movement (Sanh et al., NeurIPS 2020); by magnitude before the first
    gradient."""

    scored_in_step = "Movement's score"

    def scores(self, scores: Tensor | None, seen: Seen) -> Tensor:
        moved = seen.pattern.units(-seen.weight.float() * seen.grad.float()).float()
        return moved if scores is None else scores + moved

    def describe(self, what: str) -> str:
        return f"{what}, movement"
