"""Magnitude: keep the largest weights.

What it does    score |W_ij|; the mask is the best that the pattern allows
When            before retraining ("prune once, retrain": ASP), and as the baseline
Cost            one choice of masks; no data
Source          Han et al. 2015, arXiv 1506.02626; 2:4 and retraining: Mishra et al. 2021,
                arXiv 2104.08378
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparsetrain.patterns import Pattern
from sparsetrain.pruning.choose import choose
from sparsetrain.pruning.statistics import Inputs, Reads
from sparsetrain.select import Selection


@dataclass(frozen=True)
class Magnitude:
    """Keep the largest |W_ij|: of a 2:4 group or tile, of a block its sum, of a whole matrix where
    the pattern is unstructured."""

    reads: ClassVar[Reads] = "nothing"

    def prune(
        self, weight_OI: Tensor, inputs: Inputs | None, pattern: Pattern, selection: Selection
    ) -> tuple[Tensor, Tensor]:
        """The weight [O, I] with zeros, and its mask, bool [O, I]. inputs: not read."""
        mask_OI = choose(weight_OI.abs(), pattern, selection)
        return weight_OI * mask_OI, mask_OI
