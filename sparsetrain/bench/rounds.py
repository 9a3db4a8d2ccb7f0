"""Times of what is done in parts: a training step, an MLP and its backward.

Everything that is compared takes turns, in rounds, and nothing waits in between: in training a GPU
is at its power limit (see bench/timing.py), and so it is here.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

import torch

from sparsetrain.bench.timing import Run, Times

Parts = Mapping[str, Run]
"""What one step does, part by part, in order."""

PartClock = Callable[[Parts], dict[str, float]]
"""Does the parts in order, several times; µs of each part, and of a whole step under TOTAL."""

TOTAL = "total"
WARM_UP = 1
"""Rounds that are not counted. What is compiled ran before."""


def run_parts(parts: Parts) -> None:
    """One step."""
    for run in parts.values():
        run()


def cuda_part_clock(untimed: int, steps: int) -> PartClock:
    """A clock that does `untimed` steps, `steps` that give the total, and one that gives the parts.

    The total is that of all its steps, back to back, from one event before them to one behind, and
    not the sum of the parts. The host waits for the device once, at the end.
    """

    def clock(parts: Parts) -> dict[str, float]:
        first, last = _event(), _event()
        for _ in range(untimed):
            run_parts(parts)
        first.record()
        for _ in range(steps):
            run_parts(parts)
        last.record()
        marks = [_event()]
        marks[0].record()
        for run in parts.values():
            run()
            marks.append(_event())
            marks[-1].record()
        marks[-1].synchronize()
        between = zip(parts, marks, marks[1:], strict=False)
        times = {name: 1000 * start.elapsed_time(end) for name, start, end in between}
        return {**times, TOTAL: 1000 * first.elapsed_time(last) / steps}

    return clock


def measure_parts(
    works: Mapping[str, Parts], clock: PartClock, rounds: int, order: Sequence[str] = ()
) -> dict[str, dict[str, Times]]:
    """Median and quartiles, in µs, of the parts and the total of each work.

    order: the names of a round, every work at least once; each round starts with the next one.
    Raises ValueError for fewer than 2 rounds.
    """
    if rounds < 2:
        raise ValueError(f"rounds={rounds}: give at least 2, for a median and its spread")
    names = list(order or works)
    taken: dict[str, dict[str, list[float]]] = {name: {} for name in works}
    for number in range(WARM_UP + rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            times = clock(works[name])
            if number >= WARM_UP:
                for part, microseconds in times.items():
                    taken[name].setdefault(part, []).append(microseconds)
    return {
        name: {part: times_of(values) for part, values in parts.items()}
        for name, parts in taken.items()
    }


def times_of(values: Sequence[float]) -> Times:
    """Median and quartiles of at least two."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Times(median, low, high)


def three_times(names: Sequence[str], often: str) -> list[str]:
    """A round in which `often` comes three times: everything is divided by its median."""
    others = [name for name in names if name != often]
    return [name for first in range(3) for name in (often, *others[first::3])]


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)
