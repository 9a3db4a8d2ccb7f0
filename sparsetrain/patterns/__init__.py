"""What may be non-zero: small frozen values.

Each has `density`, `misfit(rows, columns)`, `count_violations(x)` and `holds(x)`. A selection
chooses 2:4 masks; the other patterns choose by `mask(score, density)`, or by `mask_of` scores of
their `units` (a block, a value), and check by `why_not(mask)`.
"""

from sparsetrain.patterns.block import Block
from sparsetrain.patterns.nm import NM
from sparsetrain.patterns.unstructured import Unstructured

Pattern = NM | Block | Unstructured
Scored = Block | Unstructured
"""Those with units that a method can score: a block, a value."""

__all__ = ["NM", "Block", "Pattern", "Scored", "Unstructured"]
