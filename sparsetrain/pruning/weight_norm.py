"""WeightNorm: keep the blocks of the largest norm, as torch.ao's WeightNormSparsifier does.

What it does    score of a block: its norm. For 2:4 its blocks are single values of a 1×4 group, two
                of which are zeroed: `Magnitude` along rows
When            to reproduce a flow that used torch.ao.pruning
Cost            one choice of masks; no data
Source          torch.ao.pruning.WeightNormSparsifier, whose masks these are: for
                sparse_block_shape=(1, 4), zeros_per_block=2 with NM(2, 4) and the selection `row`;
                for zeros_per_block = rows × columns with Block(…, balanced=False)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from sparsetrain.patterns import NM, Pattern
from sparsetrain.pruning.choose import choose
from sparsetrain.pruning.statistics import Inputs, Reads
from sparsetrain.select import Selection


@dataclass(frozen=True)
class WeightNorm:
    """Keep blocks by their norm: 1 is Σ|w|, as `Magnitude`; 2 the Euclidean one.

    Raises ValueError for another norm.
    """

    norm: Literal[1, 2] = 2
    reads: ClassVar[Reads] = "nothing"

    def __post_init__(self) -> None:
        if self.norm not in (1, 2):
            raise ValueError(f"norm={self.norm!r}: give 1 or 2")

    def prune(
        self, weight_OI: Tensor, inputs: Inputs | None, pattern: Pattern, selection: Selection
    ) -> tuple[Tensor, Tensor]:
        """The weight [O, I] with zeros, and its mask, bool [O, I]. inputs: not read."""
        score_OI = weight_OI.float().abs()
        if not isinstance(pattern, NM):
            score_OI = score_OI.pow(self.norm)  # of a block the sum ranks as the norm does
        mask_OI = choose(score_OI, pattern, selection)
        return weight_OI * mask_OI, mask_OI
