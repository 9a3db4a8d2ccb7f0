"""RigL: sparse from the first step; drops small weights, grows pruned ones with large gradients.

What it does    before every choice of masks drops the share α(t) = α/2 (1 + cos πt) of the kept
                values (or blocks) with the smallest magnitudes, and grows as many pruned ones with
                the largest gradients, t from 0 to 1 over the steps in which masks change; what is
                pruned is zero, gets no gradient, and has no optimizer state, and so starts what
                grows
When            when a dense phase is too much; `mask_every` is ΔT (100 in the paper), `freeze_at`
                the end of changes (0.75)
Cost            dense gradients, which dense products have anyway; two choices of a mask each ΔT
Differs         each layer keeps the density of the pattern, not one of its size (ERK); the first
                mask is of magnitudes, not random; the step of a choice is made too
Source          Evci et al., ICML 2020, arXiv 1911.11134
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsetrain.methods.hooks import Seen
from sparsetrain.methods.scoring import Scoring
from sparsetrain.reference.masks24 import unpack_bits


@dataclass(frozen=True)
class RigL(Scoring):
    """Masks that change by magnitude and gradient (Evci et al., ICML 2020).

    drop: α, the share replaced at first, in (0, 1).

    Without an end of the run the share stays α.
    """

    drop: float = 0.3

    resets = True
    scored_in_step = "RigL's choice"

    def __post_init__(self) -> None:
        if not (isinstance(self.drop, (int, float)) and 0 < self.drop < 1):
            raise ValueError(f"drop={self.drop!r}: give the share that RigL replaces, in (0, 1)")

    def looks(self, sparse: bool, due: bool) -> bool:
        return sparse and due

    def scores(self, scores: Tensor | None, seen: Seen) -> Tensor:
        """2 for what stays; at most 1, by the size of the gradient, for what may grow."""
        pattern, mask = seen.pattern, unpack_bits(seen.mask, seen.weight.shape[1])
        share = self.drop / 2 * (1 + math.cos(math.pi * seen.done))
        size = torch.where(mask, seen.weight.float().abs(), -1)
        stays = pattern.mask(size, (1 - share) * seen.density) & mask
        slope = seen.grad.float().abs()
        slope = slope / slope.max().clamp(min=torch.finfo(slope.dtype).tiny)
        return pattern.units(torch.where(stays, 2, slope)).float()

    def describe(self, what: str) -> str:
        return f"{what}, RigL {self.drop:g}"
