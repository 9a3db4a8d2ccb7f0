"""`build`: compile the kernel library."""

from __future__ import annotations

import time
from pathlib import Path

from sparsetrain import native
from sparsetrain.cli.console import relative, show_values
from sparsetrain.cli.overrides import split_word
from sparsetrain.recipe import nearest

_KEYS = ("arch", "output")


def build(words: list[str]) -> None:
    """Compile for `arch=90a,…` or `arch=native` into the cache, or into `output=FOLDER`."""
    options = _options(words)
    machine = native.look()
    archs = _archs(options.get("arch"), machine)
    output = options.get("output")
    if output and options.get("arch") not in (None, "native"):
        machine = native.Machine((), (0, 0))  # to be carried to another: its driver is unknown
    toolkit = native.find_toolkit(machine, archs)
    archs, too_new = toolkit.split(archs)
    began = time.monotonic()
    built = native.build(archs, toolkit, Path(output) if output else native.cache_folder())
    seconds = time.monotonic() - began
    size = built.path.stat().st_size / 1e6
    compiler = f"CUDA {native.dotted(toolkit.cuda)}, {toolkit.nvcc} ({toolkit.where})"
    rows = [
        ("library", f"{relative(built.path)} ({size:.1f} MB, {seconds:.0f} s)"),
        ("runs on", native.sm(archs)),
        ("compiler", compiler),
    ]
    if too_new:
        rows.append(("left out", f"{native.sm(too_new)}: this CUDA is too old for them"))
    show_values(tuple(rows))


def _archs(value: str | None, machine: native.Machine) -> tuple[str, ...]:
    """The architectures asked for, in the order of ARCHS."""
    own = native.archs_for(machine.gpus)
    if value is None:
        return own or tuple(native.ARCHS)
    if value == "native":
        if not own:
            raise ValueError(
                "arch=native: this machine has no GPU that kernels are made for;"
                f" name them: arch={','.join(native.ARCHS)}"
            )
        return own
    names = [name.strip().removeprefix("sm_") for name in value.split(",")]
    for name in names:
        if name not in native.ARCHS:
            known = ("native", *native.ARCHS)
            raise ValueError(f"arch={name!r} is unknown: choose of {', '.join(known)}")
    return tuple(arch for arch in native.ARCHS if arch in names)


def _options(words: list[str]) -> dict[str, str]:
    for word in words:
        if word.removeprefix("sm_").split(",")[0] in ("native", *native.ARCHS):
            raise ValueError(f"{word} is no option of build: write arch={word}")
    options = dict(split_word(word) for word in words)
    for key in options:
        if key not in _KEYS:
            raise ValueError(f"{key}= is no option of build: {nearest(key, _KEYS)}")
    for key, value in options.items():
        if not value:
            raise ValueError(f"{key}= is empty: leave it out, or give {key}=VALUE")
    return options
