"""What is timed: a call, its inputs, and the bytes it has to move whatever it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Layout = Literal["rows", "columns", "skip"]
"""How a result lies: [R, …], the transpose's [C, …], or neither (it is not compared)."""

Terms = tuple[tuple[int, str], ...]
"""How often each of x, values, meta and mask crosses the memory bus: ((1, "x"), (2, "values"))."""


@dataclass(frozen=True)
class Candidate:
    """One row of the table.

    name     what the table calls it; its first word is the op
    terms    what must be read and written
    inputs   x [R, C] -> the arguments of `call`; row by row (or tile by tile) a function of x
    call     the arguments -> one result or several
    layout   of each result, for the comparison with the reference; () for a peer
    mask     results, x -> bool [R, C], where the results tell which values are kept
    peer     name of the candidate that does the same job
    graph    whether it may be captured into a CUDA graph
    """

    name: str
    terms: Terms
    inputs: Callable[[Tensor], tuple[Any, ...]]
    call: Callable[..., Any]
    layout: tuple[Layout, ...] = ()
    mask: Callable[[tuple[Tensor, ...], Tensor], Tensor] | None = None
    peer: str = ""
    graph: bool = True

    def results(self, inputs: tuple[Any, ...]) -> tuple[Tensor, ...]:
        """Call it; several results or one, always as a tuple."""
        results = self.call(*inputs)
        return results if isinstance(results, tuple) else (results,)


def bytes_per_element(terms: Terms, dtype: torch.dtype, packed: torch.dtype) -> float:
    """Bytes per element of x that the terms stand for; packed is the dtype of the values."""
    size = sizes(dtype, packed)
    return sum(count * size[what] for count, what in terms)


def formula(terms: Terms, dtype: torch.dtype, packed: torch.dtype) -> str:
    """The same as one reads it: 'x + 2 values + 2 meta = 2 + 2·1 + 2·0.125 = 4.25'."""
    size = sizes(dtype, packed)
    words = " + ".join(what if count == 1 else f"{count} {what}" for count, what in terms)
    numbers = " + ".join(
        f"{size[what]:g}" if count == 1 else f"{count}·{size[what]:g}" for count, what in terms
    )
    total = f"{bytes_per_element(terms, dtype, packed):g}"
    return f"{words} = {total}" if numbers == total else f"{words} = {numbers} = {total}"


def sizes(dtype: torch.dtype, packed: torch.dtype) -> dict[str, float]:
    """Bytes per element of x: half of the values are kept, two bits for each, a bit of mask."""
    return {"x": dtype.itemsize, "values": packed.itemsize / 2, "meta": 1 / 8, "mask": 1 / 8}
