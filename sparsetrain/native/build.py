"""Compile the sources, once for all processes that want the same library."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
import tempfile
import time
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from sparsetrain.cores import cores
from sparsetrain.native.commands import Command, run_all
from sparsetrain.native.find import (
    ELSEWHERE,
    FLAGS,
    LIBRARY,
    Built,
    build_name,
    source_folder,
)
from sparsetrain.native.machine import dotted, sm
from sparsetrain.native.toolkit import (
    BuildError,
    CompileError,
    Toolkit,
    check_host_compiler,
)
from sparsetrain.native.trust import make_folder, trusted, trusted_library

_LEFT_BEHIND = 3600.0
"""Seconds after which a build's temporary folder that nothing was written to is nobody's."""


def build(archs: tuple[str, ...], toolkit: Toolkit, folder: Path) -> Built:
    """Compile for `archs`, those of ARCHS that the toolkit knows, into a folder below `folder`.

    Returns at once what is there already. One process compiles, others wait for it; the result
    appears whole or not at all. Says on standard error what takes the time. Raises BuildError for
    what is missing, does not compile or cannot be written, and for a folder that other users may
    write.
    """
    try:
        return _build(archs, toolkit, folder)
    except BuildError:
        raise
    except (OSError, NotImplementedError) as error:  # the latter: filelock, without flock
        reason = f"no build in {folder} ({str(error) or 'the file system has no locks'})"
        raise BuildError(reason, ELSEWHERE) from error


def _build(archs: tuple[str, ...], toolkit: Toolkit, folder: Path) -> Built:
    source, folder = source_folder(), folder.resolve()
    built = Built(folder / build_name(source, toolkit.cuda, archs) / LIBRARY, toolkit.cuda, archs)
    if built.path.is_file():
        trusted_library(built.path)
        return built
    _check(source)
    _make(folder)
    lock = FileLock(folder / f"{built.path.parent.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _say("another process compiles the kernels; waiting for it …")
        lock.acquire()
    try:
        if not built.path.is_file():
            _compile(source, built, toolkit)
    finally:
        lock.release()
    trusted_library(built.path)
    return built


def _check(source: Path) -> None:
    if not (source / "library.cpp").is_file():
        raise BuildError(f"{source} has no kernels", "nothing to do: this version has none")
    if not (_torch() / "lib" / "libtorch_cuda.so").is_file():
        raise BuildError("torch is built without CUDA", "install a torch with CUDA")
    check_host_compiler()


def _make(folder: Path) -> None:
    try:
        make_folder(folder)
    except OSError as error:
        raise BuildError(f"{folder} cannot be made ({error.strerror})", ELSEWHERE) from error
    trusted(folder)
    if not os.access(folder, os.W_OK):
        raise BuildError(f"{folder} cannot be written", ELSEWHERE)


def _compile(source: Path, built: Built, toolkit: Toolkit) -> None:
    began = time.monotonic()
    compiler = f"CUDA {dotted(toolkit.cuda)} ({toolkit.where})"
    _say(f"compiling the kernels for {sm(built.archs)} with {compiler}, once …")
    home = built.path.parent
    _clear(home.parent)
    with tempfile.TemporaryDirectory(prefix=".building-", dir=home.parent) as temporary:
        work, result = Path(temporary) / "work", Path(temporary) / "result"
        work.mkdir()
        result.mkdir()
        objects, link = _commands(source, built.archs, toolkit, work, result / LIBRARY)
        jobs, total = max(1, cores() // _threads(built.archs)), len(objects) + 1
        with (result / built.log.name).open("w", encoding="utf-8") as log:
            well = run_all(objects, jobs, total, log)
            well = well and run_all([link], 1, total, log, done=len(objects))
        if not well:
            log = home.with_name(f"{home.name}.failed.log")
            os.replace(result / built.log.name, log)
            raise CompileError(f"the kernels do not compile with {toolkit.nvcc}", _complaint(log))
        for path in (result, *result.iterdir()):
            path.chmod(stat.S_IMODE(path.stat().st_mode) & ~0o022)  # whatever the umask is
        if home.is_dir():  # without its library: someone removed that alone
            shutil.rmtree(home)
        os.rename(result, home)
    _say(f"compiled in {time.monotonic() - began:.0f} s: {built.path}")


def _clear(folder: Path) -> None:
    """Remove what builds that were killed left behind."""
    for path in folder.glob(".building-*"):
        with contextlib.suppress(OSError):  # it ends meanwhile, or is another user's
            newest = max(p.stat().st_mtime for p in (path, *path.rglob("*")))
            if time.time() - newest > _LEFT_BEHIND:
                shutil.rmtree(path)


def _commands(
    source: Path, archs: tuple[str, ...], toolkit: Toolkit, work: Path, library: Path
) -> tuple[list[Command], Command]:
    """What compiles every .cu and .cpp of a folder, and what links them.

    The compiler runs in the source folder, so that messages name files as csrc does.
    """
    nvcc = [str(toolkit.nvcc), *FLAGS]
    nvcc += [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs]
    threads = [f"--threads={_threads(archs)}"] if _threads(archs) > 1 else []
    include = ["-I.", "-isystem", str(_torch() / "include")]
    libraries = [] if toolkit.libraries is None else [f"-L{toolkit.libraries}"]
    libraries += [f"-L{_torch() / 'lib'}", "-ltorch_cpu", "-ltorch_cuda"]
    found = [p.relative_to(source) for p in (*source.rglob("*.cu"), *source.rglob("*.cpp"))]
    compile_all, objects = [], []
    # What lies in folders first: it takes longest.
    for path in sorted(found, key=lambda path: (len(path.parts) == 1, path)):
        file = path.as_posix()
        objects.append(str(work / f"{file.replace('/', '.')}.o"))
        words = [*nvcc, *threads, *include, "-c", file, "-o", objects[-1]]
        compile_all.append(Command(file, tuple(words), source))
    link = [*nvcc, "-shared", *objects, "-o", str(library), *libraries]
    return compile_all, Command("link", tuple(link), source)


def _threads(archs: tuple[str, ...]) -> int:
    """How many architectures one nvcc compiles at a time; jobs x threads fill the cores."""
    return min(len(archs), cores())


def _complaint(log: Path) -> str:
    """The first error of a log, and where the rest is."""
    lines = log.read_text("utf-8").splitlines()
    errors = (line.strip() for line in lines if "error" in line.lower())
    return f"{next(errors, lines[-1] if lines else 'no output')} (all of it: {log})"


def _torch() -> Path:
    return Path(torch.__file__).parent


def _say(line: str) -> None:
    print(f"sparsetrain: {line}", file=sys.stderr, flush=True)
