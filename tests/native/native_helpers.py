"""An empty machine with a compiler that writes down what it is called with."""

import importlib
from pathlib import Path

import torch

from sparsetrain import native
from sparsetrain.native import Machine

H100 = Machine(((9, 0),), (13, 0))
NVCC = """\
#!/bin/sh
if [ "$1" = --version ]; then echo "Cuda compilation tools, release {cuda}, V{cuda}.88"; exit; fi
echo "$@" >> {calls}
{extra}
while [ $# -gt 0 ]; do if [ "$1" = -o ]; then echo binary > "$2" || exit 1; fi; shift; done
"""

# `sparsetrain.native.build` is the function; these are the modules.
build_module = importlib.import_module("sparsetrain.native.build")
load_module = importlib.import_module("sparsetrain.native.load")


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def fake_nvcc(place: Path, folder="bin", cuda="13.0", extra="") -> Path:
    text = NVCC.format(cuda=cuda, calls=place / "calls", extra=extra)
    return executable(place / folder / "nvcc", text)


def calls(place: Path) -> list[str]:
    return (place / "calls").read_text().splitlines() if (place / "calls").exists() else []


def machine_is(monkeypatch, machine: Machine) -> list[str]:
    """What the driver says; returns the list of libraries that are loaded from now on."""
    loaded: list[str] = []
    monkeypatch.setattr(load_module, "look", lambda: machine)
    monkeypatch.setattr(torch.ops, "load_library", loaded.append)
    return loaded


def build_in_cache(archs=("90a",)) -> native.Built:
    return native.build(archs, native.find_toolkit(H100, archs), native.cache_folder())
