"""Timing of a region on the device that runs it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Milliseconds of the last measured region; asks the device only when read."""

    def __init__(self) -> None:
        self._seconds: float | None = None
        self._events: tuple[torch.cuda.Event, torch.cuda.Event] | None = None

    @contextmanager
    def measure(self, device: torch.device) -> Iterator[None]:
        if device.type == "cuda":
            events = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            events[0].record()
            yield
            events[1].record()
            self._events = events
        else:
            start = time.perf_counter()
            yield
            self._seconds = time.perf_counter() - start

    def milliseconds(self) -> float | None:
        """Time of the last region, None before the first. Waits for it to end."""
        if self._events is not None:
            self._events[1].synchronize()
            return self._events[0].elapsed_time(self._events[1])
        return None if self._seconds is None else 1000 * self._seconds
