"""A question to all processes of a run."""

from __future__ import annotations

import torch

from sparsetrain.lightning.flavour import pl
from sparsetrain.lightning.later import Later


def in_several(trainer: pl.Trainer) -> bool:
    """Whether a run has several processes, which torch.distributed knows of."""
    known = torch.distributed.is_available() and torch.distributed.is_initialized()
    return known and trainer.world_size > 1


class AskAll:
    """The largest number that any process gives. With several processes the answer is that of the
    call before, at first 0, for which nothing waits: all have to call it equally often."""

    def __init__(self) -> None:
        self._answer: Later | None = None

    def __call__(self, trainer: pl.Trainer, number: int) -> int:
        if not in_several(trainer):
            return number
        # `full` and `all_reduce` only queue work on a GPU; a copy of a number would wait for it.
        largest = torch.full((1,), float(number), device=trainer.strategy.root_device)
        torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX)
        before, self._answer = self._answer, Later(largest)
        return 0 if before is None else int(before.read().item())
