"""What comes back from a training in spawned or forked processes besides weights: its phase."""

from __future__ import annotations

from typing import get_args

import torch

from sparsetrain.schedule import Phase

_PHASES = get_args(Phase)


class EndPhase:
    """The phase in which training ended, in memory that `ddp_spawn` and `ddp_notebook` share.

    They copy weights back to the process that started them, and nothing else of callbacks.
    """

    def __init__(self) -> None:
        self._number = torch.full((), -1).share_memory_()

    def write(self, phase: Phase) -> None:
        self._number.fill_(_PHASES.index(phase))

    def read(self) -> Phase | None:
        """The phase that was written last, by any of the processes; None before."""
        number = int(self._number)
        return None if number < 0 else _PHASES[number]
