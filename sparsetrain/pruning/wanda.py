"""Wanda: weights and activations.

What it does    score |W_ij| · ‖X_j‖₂ over calibration tokens, compared within each output row; the
                kept weights stay as they are
When            without retraining, in one pass over a few calibration batches
Cost            a forward over the calibration data; I numbers a layer
Source          Sun et al., ICLR 2024, arXiv 2306.11695
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparsetrain.patterns import Pattern, Unstructured
from sparsetrain.pruning.choose import choose, choose_by_row
from sparsetrain.pruning.statistics import Inputs, Reads
from sparsetrain.select import Selection


@dataclass(frozen=True)
class Wanda:
    """Keep the largest |W_ij| · ‖X_j‖₂: of a 2:4 group or tile, of a block its sum, and of each
    output row where the pattern is unstructured."""

    reads: ClassVar[Reads] = "norms"

    def prune(
        self, weight_OI: Tensor, inputs: Inputs | None, pattern: Pattern, selection: Selection
    ) -> tuple[Tensor, Tensor]:
        """The weight [O, I] with zeros, and its mask, bool [O, I]."""
        assert inputs is not None, "prune collects what a method reads"
        score_OI = weight_OI.double().abs() * inputs.norms_I
        if isinstance(pattern, Unstructured):
            mask_OI = choose_by_row(score_OI, pattern.density)
        else:
            mask_OI = choose(score_OI, pattern, selection)
        return weight_OI * mask_OI, mask_OI
