"""Times on a GPU, from device events.

A clock is a function that runs something once and gives the microseconds it took. Those here keep
the device busy while the host issues the work, so that a launch costs nothing:

    cold    256 MB are written and read first: nothing of the input is left in the L2 cache, and
            no dirty line is written back on the bill of what is timed
    warm    the same work runs twice and the second is timed: what fits into the L2 is there
    graph   CALLS calls captured into one CUDA graph, warm: without the cost of an event pair

Products are timed warm. In training an H200 is at its power limit: a dense bfloat16 product alone
runs at 1.45 GHz and 690 W after half a second, in a burst of some ms at up to 1.98 GHz (measured
2026-11-22). Pauses between calls, and flushing is one, hide that; operands larger than the L2 are
cold without it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

Run = Callable[[], object]
Clock = Callable[[Run], float]

CALLS = 20
"""Calls in a captured graph."""

WARM_UP = 3
"""Rounds that are not counted."""

_FLUSH_BYTES = 256 * 2**20
_BUSY_CYCLES = 400_000  # about 0.2 ms, longer than the host needs for a dozen launches


@dataclass(frozen=True)
class Times:
    """Microseconds over the rounds: median and quartiles."""

    median: float
    low: float
    high: float

    @property
    def spread(self) -> float:
        """Distance of the quartiles as a share of the median."""
        return (self.high - self.low) / self.median

    def divided(self, calls: int) -> Times:
        return Times(self.median / calls, self.low / calls, self.high / calls)


def measure(
    runs: Mapping[str, Run], clock: Clock, rounds: int, order: Sequence[str] = ()
) -> dict[str, Times]:
    """Time every run in every round, each round starting with the next one.

    So whatever drifts (temperature, clocks, neighbours) meets all of them alike. `rounds` of at
    least 2 are counted, after WARM_UP that are not. Raises ValueError for fewer.

    order: the names of a round, every run at least once, the more often the surer its median;
    without it each runs once.
    """
    if rounds < 2:
        raise ValueError(f"rounds={rounds}: give at least 2, for a median and its spread")
    names = list(order or runs)
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(WARM_UP + rounds):
        first = number % max(len(names), 1)
        for name in names[first:] + names[:first]:
            microseconds = clock(runs[name])
            if number >= WARM_UP:
                taken[name].append(microseconds)
    return {name: _times(values) for name, values in taken.items()}


@dataclass(frozen=True)
class Clocks:
    """The two clocks, and what turns a run into CALLS of it in one graph."""

    cold: Clock
    warm: Clock
    capture: Callable[[Run], Run]


def cuda_clocks() -> Clocks:
    """The clocks of the current CUDA device. Holds 256 MB of its memory."""
    buffer = torch.empty(_FLUSH_BYTES // 4, device="cuda")

    def cold(run: Run) -> float:
        buffer.zero_()
        buffer.sum()
        return _between_events(run)

    def warm(run: Run) -> float:
        torch.cuda._sleep(_BUSY_CYCLES)
        run()
        return _between_events(run)

    return Clocks(cold, warm, _capture)


def _capture(run: Run) -> Run:
    """The run must have run before, must not wait for the device, and must keep its inputs."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS):
            run()
    return graph.replay


def _between_events(run: Run) -> float:
    start = torch.cuda.Event(enable_timing=True)
    end = torch.cuda.Event(enable_timing=True)
    start.record()
    run()
    end.record()
    end.synchronize()
    return 1000 * start.elapsed_time(end)


def _times(values: list[float]) -> Times:
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Times(median, low, high)
