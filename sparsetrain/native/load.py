"""Load the library into this process, building it first where that is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from sparsetrain.native.build import build
from sparsetrain.native.find import ELSEWHERE, Built, cache_folder, find_built
from sparsetrain.native.machine import (
    ARCHS,
    Machine,
    archs_for,
    covers,
    dotted,
    look,
    look_through_torch,
    sm,
)
from sparsetrain.native.toolkit import BuildError, CompileError, find_toolkit
from sparsetrain.native.trust import trusted_library


@dataclass(frozen=True)
class Library:
    """The library that this process loaded; or `reason` why it has none, and `fix`, what to do."""

    path: Path | None = None
    archs: tuple[str, ...] = ()
    reason: str = ""
    fix: str = ""


NOT_BUILT = Library(reason="the kernel library is not built", fix="python -m sparsetrain build")

_library: Library | None = None
_compiles = True


def load() -> Library:
    """Load a library that was built for this machine, if there is one; look once in a process.

    Fast, starts neither CUDA nor a compiler: importing sparsetrain.ops calls it.
    """
    global _library
    if _library is None:
        _library = _load_built(look() if torch.version.cuda is not None else Machine((), (0, 0)))
    return _library


def require() -> Library:
    """Load the library, compiled first if this machine has a GPU and no build for it.

    Says on standard error that it compiles; tries that once in a process. What is missing stands
    in the result, and CUDA tensors keep the reference.
    """
    global _library, _compiles
    if load().path is not None or not _compiles or torch.version.cuda is None:
        return load()
    machine = look()
    if not machine.gpus and torch.cuda.is_available():
        machine = look_through_torch()
    _library = _load_built(machine)
    archs = archs_for(machine.gpus)
    if _library.path is not None or not archs:
        return _library
    try:
        _library = _open(_build(machine, archs))
    except BuildError as error:
        _compiles = not isinstance(error, CompileError)
        if not _compiles or _library == NOT_BUILT:  # else the build that is there comes first
            _library = Library(reason=error.reason, fix=error.fix)
    return _library


def _build(machine: Machine, archs: tuple[str, ...]) -> Built:
    toolkit = find_toolkit(machine, archs)
    able, unable = toolkit.split(archs)
    if unable:
        fix = f"set CUDA_HOME to a CUDA from {dotted(ARCHS[unable[-1]])}"
        raise BuildError(f"{toolkit.nvcc} is too old for {sm(unable)}", fix)
    return build(able, toolkit, cache_folder())


def _load_built(machine: Machine) -> Library:
    """The first build for this machine that loads; without one, the first reason why not."""
    useless = _why_useless(machine)
    if useless is not None:
        return useless
    failed: Library | None = None
    try:
        for built in find_built():
            served = not machine.driver[0] or built.cuda[0] <= machine.driver[0]
            if served and covers(built.archs, machine.gpus):
                library = _open(built)
                if library.path is not None:
                    return library
                failed = failed or library
    except BuildError as error:
        failed = failed or Library(reason=error.reason, fix=error.fix)
    except OSError as error:
        fix = f"{error}; {ELSEWHERE}"
        failed = failed or Library(reason="the cache of builds cannot be read", fix=fix)
    return failed or NOT_BUILT


def _open(built: Built) -> Library:
    try:
        path = trusted_library(built.path)
        torch.ops.load_library(str(path))
    except BuildError as error:
        return Library(reason=error.reason, fix=error.fix)
    except OSError as error:
        fix = f"{error}; remove {built.path.parent} and build it again"
        return Library(reason="the kernel library does not load", fix=fix)
    return Library(path, built.archs)


def _why_useless(machine: Machine) -> Library | None:
    """Why no build can serve this machine, if none can."""
    if torch.version.cuda is None:
        return Library(reason="torch is built without CUDA", fix="install a torch with CUDA")
    if not machine.gpus:
        return Library(reason="no NVIDIA GPU")
    if not archs_for(machine.gpus):
        gpus = ", ".join(f"sm_{major}{minor}" for major, minor in machine.gpus)
        return Library(reason=f"no kernels for {gpus}", fix=f"there are some for {sm(ARCHS)}")
    return None
