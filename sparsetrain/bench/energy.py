"""The energy a GPU took, from the counter that NVML reads: millijoules since the driver was loaded.

The counter moves in steps of up to a tenth of a second, so what is measured should take seconds.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch

Meter = Callable[[], float]
"""Joules since some moment in the past."""


def energy_meter(device: torch.device) -> Meter | str:
    """The counter of a CUDA device, or why there is none."""
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError as error:
        return f"no pynvml ({error}): pip install nvidia-ml-py"
    uuid = str(torch.cuda.get_device_properties(device).uuid).removeprefix("GPU-")
    try:
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except nvml.NVMLError as error:
        return f"NVML does not tell the energy of this device: {error}"
    return lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000
