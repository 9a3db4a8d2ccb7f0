"""The GPUs of this machine, and which architectures of code they run."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from dataclasses import dataclass

import torch

Version = tuple[int, int]

ARCHS: dict[str, Version] = {
    "80": (12, 0),
    "89": (12, 0),
    "90a": (12, 0),
    "100a": (12, 8),
    "120": (12, 8),
}
"""The architectures that the kernels are compiled for, and the first CUDA that can.

12.0 at least, for all: the kernels use __viaddmax_u32, the build nvcc --threads.
"""


@dataclass(frozen=True)
class Machine:
    """Compute capability of each GPU, and the newest CUDA its driver serves ((0, 0): unknown)."""

    gpus: tuple[Version, ...]
    driver: Version


def look() -> Machine:
    """Ask the driver's management library, which starts no CUDA: a later fork would not survive."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return Machine((), (0, 0))
    if nvml.nvmlInit_v2() != 0:
        return Machine((), (0, 0))
    try:
        return Machine(tuple(_gpus(nvml)), _driver(nvml))
    finally:
        nvml.nvmlShutdown()


def look_through_torch() -> Machine:
    """The same from torch, for containers without the management library. Starts CUDA."""
    devices = range(torch.cuda.device_count())
    return Machine(tuple(torch.cuda.get_device_capability(i) for i in devices), (0, 0))


def serves(arch: str, gpu: Version) -> bool:
    """Whether code for `arch` runs on a GPU: `90a` on 9.0 alone, `80` on 8.0 and later 8.x."""
    major, minor = divmod(int(arch.removesuffix("a")), 10)
    return gpu == (major, minor) if arch.endswith("a") else gpu[0] == major and gpu[1] >= minor


def archs_for(gpus: Iterable[Version]) -> tuple[str, ...]:
    """The best architecture for each GPU, in the order of ARCHS; a GPU without one has none."""
    best = {max((a for a in ARCHS if serves(a, gpu)), key=_number, default="") for gpu in gpus}
    return tuple(arch for arch in ARCHS if arch in best)


def covers(archs: Iterable[str], gpus: Iterable[Version]) -> bool:
    """Whether code for `archs` serves every GPU that any kernel can serve, and at least one.

    An old card beside the one that trains is no obstacle; a kernel on it is CUDA's own error.
    """
    able = [gpu for gpu in gpus if archs_for([gpu])]
    archs = tuple(archs)
    return bool(able) and all(any(serves(arch, gpu) for arch in archs) for gpu in able)


def sm(archs: Iterable[str]) -> str:
    """'sm_80, sm_90a'."""
    return ", ".join(f"sm_{arch}" for arch in archs)


def dotted(version: Version) -> str:
    """'13.0'."""
    return f"{version[0]}.{version[1]}"


def _number(arch: str) -> int:
    return int(arch.removesuffix("a"))


def _gpus(nvml: ctypes.CDLL) -> list[Version]:
    count = ctypes.c_uint()
    if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
        return []
    gpus = []
    for index in range(count.value):
        handle, major, minor = ctypes.c_void_p(), ctypes.c_int(), ctypes.c_int()
        if nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) != 0:
            continue  # a GPU that this process may not use
        status = nvml.nvmlDeviceGetCudaComputeCapability(
            handle, ctypes.byref(major), ctypes.byref(minor)
        )
        if status == 0:
            gpus.append((major.value, minor.value))
    return gpus


def _driver(nvml: ctypes.CDLL) -> Version:
    version = ctypes.c_int()
    if nvml.nvmlSystemGetCudaDriverVersion_v2(ctypes.byref(version)) != 0:
        return (0, 0)
    return version.value // 1000, version.value % 1000 // 10
