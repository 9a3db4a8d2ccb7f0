"""What may be non-zero: small frozen values.

Each has `density`, `misfit(rows, columns)`, `count_violations(x)` and `holds(x)`. A selection
chooses 2:4 masks; the other patterns choose by `mask(score, density)` and check by `why_not(mask)`.
"""

from sparsetrain.patterns.block import Block
from sparsetrain.patterns.nm import NM
from sparsetrain.patterns.unstructured import Unstructured

Pattern = NM | Block | Unstructured

__all__ = ["NM", "Block", "Pattern", "Unstructured"]
