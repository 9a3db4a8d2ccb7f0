"""From scores to a mask: the pattern and the selection decide, as in training.

Dimension key:  O output features   I input features
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsetrain.nn.choose import choose_mask
from sparsetrain.patterns import Pattern
from sparsetrain.reference.masks24 import unpack_bits
from sparsetrain.select import Selection


def choose(score_OI: Tensor, pattern: Pattern, selection: Selection) -> Tensor:
    """Keep the highest scores (≥ 0) that the pattern allows. bool [O, I]."""
    bits = choose_mask(score_OI.float(), pattern, selection)
    return unpack_bits(bits, score_OI.shape[1])


def choose_by_row(score_OI: Tensor, density: float) -> Tensor:
    """Keep as many of the highest scores in every row, or one more in the rows where the next one
    is highest, so that all together are the share `density`. bool [O, I]; ties keep the first."""
    O, I = score_OI.shape  # noqa: E741
    each, more = divmod(max(1, round(density * O * I)), O)
    order_OI = score_OI.sort(dim=1, descending=True, stable=True).indices
    mask_OI = torch.zeros_like(score_OI, dtype=torch.bool).scatter(1, order_OI[:, :each], True)
    if more:
        next_O = score_OI.gather(1, order_OI[:, each : each + 1]).squeeze(1)
        rows = next_O.sort(descending=True, stable=True).indices[:more]
        mask_OI[rows, order_OI[rows, each]] = True
    return mask_OI
