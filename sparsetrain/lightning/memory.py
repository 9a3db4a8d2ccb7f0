"""How much memory a process has needed."""

from __future__ import annotations

import sys

import torch

_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes of what `getrusage` counts in


def peak_memory_gib(device: torch.device) -> float:
    """GiB: on CUDA the most that tensors of this process took on the device since `forget_peak`,
    elsewhere the most memory that this process had since it began. NaN where nothing tells."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT / 2**30


def forget_peak(device: torch.device) -> None:
    """Begin to count again on CUDA: another run of this process may have needed more."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
