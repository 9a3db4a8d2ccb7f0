"""Floating-point operations of a training step, and what a GPU can do dense."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sparsetrain.nn.phase import all_dense, evaluating

# Dense bf16 tensor-core FLOP/s from the vendors' datasheets (SXM parts where they differ).
_PEAKS = {
    "H200": 989e12,
    "H100": 989e12,
    "GH200": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "L40S": 362e12,
    "A10G": 70e12,
    "RTX 4090": 165e12,
}


def dense_peak_flops(device: torch.device) -> float | None:
    """Dense bf16 FLOP/s of a CUDA device by its name; None where it is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for key, peak in _PEAKS.items() if key in name), None)


@contextmanager
def counting(model: nn.Module) -> Iterator[FlopCounterMode]:
    """Count the FLOPs of forwards inside: in evaluation, without gradients and compiled code."""
    counter = FlopCounterMode(display=False)
    # Compiled code would compile for the counter, and never again.
    with torch.no_grad(), evaluating(model), torch.compiler.set_stance("force_eager"), counter:
        yield counter


def training_flops_per_image(module: nn.Module, images: Tensor) -> float:
    """Dense FLOPs of forward and backward for one image: three times the dense forward.

    Leaves the module as it is, the training mode of every part included.
    """
    with all_dense(module), counting(module) as counter:
        module(images[:1])
    return 3.0 * counter.get_total_flops()
