"""What is read from the device while a step runs: times, memory, energy."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from sparsetrain.bench.energy import energy_meter
from sparsetrain.bench.rounds import PartClock, cuda_part_clock
from sparsetrain.bench.timing import Run, Times


@dataclass(frozen=True)
class Gauges:
    """The instruments; a test has its own.

    clock     of parts, see bench.rounds
    held      bytes that tensors take now
    peak      bytes, above `held`, that they take at most while it runs
    joules    of running it that many times; or why that is not known
    """

    clock: PartClock
    held: Callable[[], int]
    peak: Callable[[Run], int]
    joules: Callable[[Run, int], float] | str

    def joules_of(self, run: Run, times: Times, seconds: float) -> float | None:
        """Of running it once, from so many seconds of it; None where that is not known."""
        if isinstance(self.joules, str):
            return None
        count = math.ceil(1e6 * seconds / times.median)
        return self.joules(run, count) / count


def cuda_gauges(device: torch.device, untimed: int, steps: int) -> Gauges:
    """Those of a CUDA device. untimed, steps: of the clock."""
    meter = energy_meter(device)

    def joules(run: Run, count: int) -> float:
        assert not isinstance(meter, str), "joules is the reason then"
        run()
        torch.cuda.synchronize(device)
        before = meter()
        for _ in range(count):
            run()
        torch.cuda.synchronize(device)
        return meter() - before

    def held() -> int:
        gc.collect()  # models hold themselves in cycles
        return torch.cuda.memory_allocated(device)

    def peak(run: Run) -> int:
        before = held()
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before

    clock = cuda_part_clock(untimed, steps)
    return Gauges(clock, held, peak, meter if isinstance(meter, str) else joules)
