"""What comes back from a training in spawned or forked processes besides weights: its phase."""

from __future__ import annotations

from typing import get_args

import torch

from sparsetrain.schedule import Phase

_PHASES = get_args(Phase)


class EndPhase:
    """The phase in which training ended, in memory that `ddp_spawn` and `ddp_notebook` share.

    They copy weights back to the process that started them, and nothing else of callbacks. A
    process that trains by itself has its model, so it reads nothing.
    """

    def __init__(self) -> None:
        self._number = torch.full((), -1).share_memory_()
        self._written_here = False

    def write(self, phase: Phase) -> None:
        self._number.fill_(_PHASES.index(phase))
        self._written_here = True

    def read(self) -> Phase | None:
        """The phase that another process wrote last; None before, and where this one trains."""
        number = int(self._number)
        return None if number < 0 or self._written_here else _PHASES[number]
