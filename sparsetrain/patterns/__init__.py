"""What may be non-zero: small frozen values.

Each has `density`, `misfit(rows, columns)`, `count_violations(x)` and `holds(x)`. A selection
chooses 2:4 masks; the other patterns choose by `mask(score, density)`, or by `mask_of` scores of
their `units` (a block, a value), and check by `why_not(mask)`.
"""

from sparsetrain.patterns.block import Block
from sparsetrain.patterns.combined import Combined
from sparsetrain.patterns.nm import NM
from sparsetrain.patterns.unstructured import Unstructured
from sparsetrain.patterns.vnm import VNM

Pattern = NM | Block | Unstructured | Combined | VNM
Scored = Block | Unstructured
"""Those with units that a method can score: a block, a value."""
Selected = NM | Combined
"""Those whose 2:4 masks are chosen by a selection."""
TwoLevel = Combined | VNM
"""Patterns of two levels: `outer` keeps blocks or columns, and the inner level a part of those."""
Fixed = NM | VNM
"""Patterns whose density cannot fall over a run."""

__all__ = [
    "NM",
    "VNM",
    "Block",
    "Combined",
    "Fixed",
    "Pattern",
    "Scored",
    "Selected",
    "TwoLevel",
    "Unstructured",
]
