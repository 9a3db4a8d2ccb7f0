"""The programs that a build needs: nvcc, a C++ compiler."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sparsetrain.native.machine import ARCHS, Machine, Version, dotted, sm

INSTALL = "pip install 'sparsetrain[build]'"
WHEELS = 13
"""The CUDA that INSTALL brings: a driver of CUDA 12 does not serve it."""

USUAL = Path("/usr/local/cuda")
"""Where NVIDIA's installers put a toolkit, without putting it on PATH."""

_WHEELS = {
    "nvidia-nvvm": ("nvvm/bin/cicc",),
    "nvidia-cuda-crt": ("include/crt/host_config.h",),
    "nvidia-cuda-runtime": ("include/cuda_runtime.h",),
    "nvidia-cuda-cccl": ("include/cccl/nv/target", "include/nv/target"),
}
"""What nvcc from a wheel needs of other wheels: one of these files each."""


class BuildError(OSError):
    """The library cannot be built here: `reason` says why, `fix` what to do."""

    def __init__(self, reason: str, fix: str) -> None:
        super().__init__(f"{reason}; {fix}")
        self.reason = reason
        self.fix = fix


class CompileError(BuildError):
    """The sources do not compile: trying again would take as long and end the same."""


@dataclass(frozen=True)
class Toolkit:
    """An nvcc, its version, where it was found and what was passed over before it, in words.

    And where its libraries are if it cannot tell.
    """

    nvcc: Path
    cuda: Version
    where: str
    libraries: Path | None = None

    def split(self, archs: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The architectures that it can compile for, and those that it is too old for."""
        archs = tuple(archs)
        able = tuple(arch for arch in archs if ARCHS[arch] <= self.cuda)
        return able, tuple(arch for arch in archs if arch not in able)


def find_toolkit(machine: Machine, archs: Iterable[str]) -> Toolkit:
    """The first nvcc that compiles for any of `archs` and that this machine's driver serves.

    In order: CUDA_HOME, CUDA_PATH, PATH, NVIDIA's wheels, /usr/local/cuda. Raises BuildError
    that says what was found and what to install.
    """
    archs = tuple(archs)
    rejected = []
    for where, nvcc, libraries in _candidates():
        if nvcc is None:
            rejected.append(where)
            continue
        missing = _missing_wheels(nvcc) if libraries else []
        if missing:
            rejected.append(f"{nvcc} lacks the wheels {', '.join(missing)}")
            continue
        cuda = _version(nvcc)
        if cuda is None:
            rejected.append(f"{nvcc} does not run")
            continue
        toolkit = Toolkit(nvcc, cuda, "; ".join([where, *rejected]), libraries)
        if machine.driver[0] and cuda[0] > machine.driver[0]:
            served = dotted(machine.driver)
            rejected.append(f"{nvcc} is CUDA {dotted(cuda)}, but the driver serves {served}")
        elif not toolkit.split(archs)[0]:
            rejected.append(f"{nvcc} is CUDA {dotted(cuda)}, too old for {sm(archs)}")
        else:
            return toolkit
    reason = "no CUDA compiler (nvcc) fits" if rejected else "no CUDA compiler (nvcc) found"
    raise BuildError(reason, "; ".join([*rejected, _what_to_install(machine.driver[0], archs)]))


def _what_to_install(driver: int, archs: Iterable[str]) -> str:
    """A compiler for `archs` that a driver of this major CUDA serves (0: unknown)."""
    oldest = dotted(min(ARCHS[arch] for arch in archs))
    if driver and driver < WHEELS:
        return f"install a CUDA toolkit from {oldest} up to {driver}.x and set CUDA_HOME to it"
    newest = f" up to {driver}.x" if driver else ""
    return f"{INSTALL}, or set CUDA_HOME to a CUDA toolkit from {oldest}{newest}"


def check_host_compiler() -> None:
    """nvcc needs g++, or what NVCC_CCBIN names. Raises BuildError."""
    if not os.environ.get("NVCC_CCBIN") and shutil.which("g++") is None:
        fix = "install it: apt-get install g++, dnf install gcc-c++, or conda install gxx"
        raise BuildError("no C++ compiler (g++) found", fix)


def _candidates() -> Iterator[tuple[str, Path | None, Path | None]]:
    """Where it was found, nvcc, and the folder of its libraries where nvcc looks elsewhere.

    A variable that names a folder without nvcc comes as the words that say so, and None.
    """
    for name in ("CUDA_HOME", "CUDA_PATH"):
        home = os.environ.get(name)
        if not home:
            continue
        nvcc = Path(home) / "bin" / "nvcc"
        if os.path.isfile(nvcc):
            yield name, nvcc, None
        else:
            yield f"{name}={home} has no bin/nvcc", None, None
    found = shutil.which("nvcc")
    if found is not None:
        yield "PATH", Path(found), None
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations or () if spec is not None else ():
        for nvcc in sorted(Path(folder).glob("cu*/bin/nvcc"), reverse=True):
            yield "NVIDIA's wheels", nvcc, nvcc.parent.parent / "lib"
    if (USUAL / "bin" / "nvcc").is_file():
        yield str(USUAL), USUAL / "bin" / "nvcc", None


def _missing_wheels(nvcc: Path) -> list[str]:
    root = nvcc.parent.parent
    return [n for n, files in _WHEELS.items() if not any((root / f).is_file() for f in files)]


def _version(nvcc: Path) -> Version | None:
    try:
        done = subprocess.run([nvcc, "--version"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"release (\d+)\.(\d+)", done.stdout)
    return (int(found[1]), int(found[2])) if found else None
