"""Numbers of the device, read when they are there."""

from __future__ import annotations

import torch
from torch import Tensor


class Later:
    """The values of a tensor as they are now, on their way to the host.

    On CUDA nothing waits for them before `read`: they are copied to pinned memory when the device
    gets there. The tensor may change afterwards.
    """

    def __init__(self, values: Tensor) -> None:
        self._values = values.detach().to("cpu", non_blocking=True, copy=True)
        self._there: torch.cuda.Event | None = None
        if values.device.type == "cuda":
            self._there = torch.cuda.Event()
            self._there.record(torch.cuda.current_stream(values.device))

    def read(self) -> Tensor:
        """The values, on the CPU. Waits until they are there."""
        if self._there is not None:
            self._there.synchronize()
        return self._values
