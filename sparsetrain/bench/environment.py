"""Where a number was measured: hardware, driver, versions, commit."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import shutil
import subprocess
from pathlib import Path

import torch

import sparsetrain


def environment(command: str, library: str) -> dict[str, str]:
    """Everything about this run on the current CUDA device that is not a measurement.

    library: path and architectures of the kernels, as the caller knows them
    """
    device = torch.cuda.current_device()
    found = torch.cuda.get_device_properties(device)
    return {
        "command": command,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "hardware": f"{found.name}, sm_{found.major}{found.minor}, "
        f"{found.multi_processor_count} SMs, {found.total_memory / 2**30:.0f} GiB, "
        f"L2 {found.L2_cache_size / 2**20:.0f} MiB",
        "driver": _driver(str(found.uuid)),
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "none",
        "python": platform.python_version(),
        "torchao": _version("torchao"),
        "commit": commit(Path(sparsetrain.__file__).resolve().parent.parent),
        "library": library,
    }


def commit(checkout: Path) -> str:
    """`git describe` of the checkout the package lies in, else the version of the package."""
    if (checkout / ".git").exists() and shutil.which("git"):
        words = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=30)
        if done.returncode == 0:
            return done.stdout.strip()
    try:
        return f"sparsetrain {importlib.metadata.version('sparsetrain')}, no checkout"
    except importlib.metadata.PackageNotFoundError:
        return "unknown: neither a checkout nor an installed package"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def _driver(uuid: str) -> str:
    """Version, and the clocks that bound what can be measured, from nvidia-smi."""
    if shutil.which("nvidia-smi") is None:
        return "unknown: no nvidia-smi"
    fields = "driver_version,clocks.max.sm,clocks.max.memory,power.limit"
    words = ["nvidia-smi", f"--id=GPU-{uuid.removeprefix('GPU-')}", f"--query-gpu={fields}"]
    done = subprocess.run(
        [*words, "--format=csv,noheader"], capture_output=True, text=True, timeout=30
    )
    if done.returncode != 0:
        return "unknown: nvidia-smi does not know this device"
    version, sm, memory, power = (word.strip() for word in done.stdout.strip().split(","))
    return f"{version}, SM clock to {sm}, memory clock {memory}, power limit {power}"
