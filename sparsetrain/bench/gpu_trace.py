"""What torch.profiler's events say of a step on the GPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Kernel:
    """Of a step: milliseconds and launches."""

    name: str
    ms: float
    launches: float


@dataclass(frozen=True)
class Profile:
    """Milliseconds of a step: from first to last kernel, in which any ran, and of each."""

    span: float
    busy: float
    kernels: tuple[Kernel, ...]


def profile_of(events: Iterable[Any], steps: int) -> Profile:
    """What the profiler's events on the GPU say of a step; times of events are in µs."""
    kernels = [event for event in events if event.device_type.name == "CUDA"]
    spans = sorted((event.time_range.start, event.time_range.end) for event in kernels)
    busy, until, scale = 0.0, spans[0][0], 1000 * steps
    for start, end in spans:
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    times, launches = Counter[str](), Counter[str]()
    for event in kernels:
        times[event.name] += event.time_range.end - event.time_range.start
        launches[event.name] += 1
    rows = (Kernel(name, time / scale, launches[name] / steps) for name, time in times.items())
    longest = sorted(rows, key=lambda kernel: -kernel.ms)
    return Profile((until - spans[0][0]) / scale, busy / scale, tuple(longest))
