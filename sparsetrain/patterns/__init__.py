"""What may be non-zero: small frozen values.

Each pattern has `mask(score, density)`, `misfit(rows, columns)`, `why_not(mask)`,
`count_violations(x)` and `holds(x)`.
"""

from sparsetrain.patterns.block import Block
from sparsetrain.patterns.nm import NM
from sparsetrain.patterns.unstructured import Unstructured

Pattern = NM | Block | Unstructured

__all__ = ["NM", "Block", "Pattern", "Unstructured"]
