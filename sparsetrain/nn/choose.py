"""Which values of a weight a layer keeps: its pattern, by a selection or by magnitude."""

from __future__ import annotations

from torch import Tensor

from sparsetrain.ops import select24
from sparsetrain.patterns import NM, Pattern
from sparsetrain.reference.masks24 import pack_bits
from sparsetrain.select import Selection


def choose_mask(
    weight: Tensor,
    pattern: Pattern,
    selection: Selection,
    density: float | None = None,
    scores: Tensor | None = None,
) -> Tensor:
    """The mask of a weight [O, I] as bits, uint8 [O, ceil(I/8)].

    selection: of a 2:4 pattern. density: the share that other patterns keep, theirs if None: of the
    highest `scores` of their units where a method keeps some, else of the largest magnitudes.
    """
    if isinstance(pattern, NM):
        return select24(weight, selection.rule)
    if scores is not None:
        return pack_bits(pattern.mask_of(scores, density))
    return pack_bits(pattern.mask(weight.detach().abs(), density))


def describe(pattern: Pattern, selection: Selection) -> str:
    """As "2:4 weight, exact" or "64×64-block 0.2 weight"."""
    chosen = f", {selection}" if isinstance(pattern, NM) else ""
    return f"{pattern} weight{chosen}"
