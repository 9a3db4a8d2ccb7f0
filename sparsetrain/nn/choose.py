"""Which values of a weight a layer keeps: its pattern, by a selection or by magnitude."""

from __future__ import annotations

from torch import Tensor

from sparsetrain.ops import select24
from sparsetrain.patterns import NM, Combined, Pattern, Scored, Selected
from sparsetrain.reference.masks24 import pack_bits, unpack_bits
from sparsetrain.select import Selection


def choose_mask(
    weight: Tensor,
    pattern: Pattern,
    selection: Selection,
    density: float | None = None,
    scores: Tensor | None = None,
) -> Tensor:
    """The mask of a weight [O, I] as bits, uint8 [O, ceil(I/8)].

    selection: of 2:4, alone or in blocks. density: the share that other patterns keep, theirs if
    None: of the highest `scores` of their units where a method keeps some, else of the largest
    magnitudes.
    """
    if isinstance(pattern, NM):
        return select24(weight, selection.rule)
    if isinstance(pattern, Combined):
        inner = unpack_bits(select24(weight, selection.rule), weight.shape[1])
        return pack_bits(pattern.combine(inner, weight.detach().abs(), density))
    if isinstance(pattern, Scored) and scores is not None:
        return pack_bits(pattern.mask_of(scores, density))
    return pack_bits(pattern.mask(weight.detach().abs(), density))


def describe(pattern: Pattern, selection: Selection) -> str:
    """As "2:4 weight, exact" or "64×64-block 0.2 weight"."""
    chosen = f", {selection}" if isinstance(pattern, Selected) else ""
    return f"{pattern} weight{chosen}"
