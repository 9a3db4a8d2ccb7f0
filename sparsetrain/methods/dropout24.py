"""2:4 dropout: a random valid 2:4 mask of the hidden activations, another in every step.

What it does    keeps two of every four hidden features by chance alone, times 2, instead of the
                MLP's own dropout; the expectation is that of dropout 0.5, and every value is kept
                with probability 1/2, but two of four neighbours always are. In evaluation and in
                dense phases the module's own forward runs
Products        h24 @ w2.T and dy.T @ h24 (grad w2): two of six, by one mask of 4×4 tiles
When            as a regulariser, where dropout 0.5 would be one
Cost            drawing the mask, and a pass over h, as dropout has
Source          ours: masks are uniform over the 90 tiles with two in every row and column
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ActivationDropout24:
    """2:4 dropout between the activation and fc2 of MLPs; see `nn.Dropout24` for other places."""

    def describe(self) -> str:
        return "2:4 dropout of the hidden activations"
