"""Where the sources are, where builds are kept, and which there are."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sparsetrain.native.machine import Version, dotted
from sparsetrain.native.toolkit import BuildError

PACKAGE = Path(__file__).resolve().parent.parent
LIBRARY = "libsparsetrain_kernels.so"
ELSEWHERE = "set SPARSETRAIN_CACHE to a folder that can"

FLAGS = (
    "-std=c++17",
    "-O3",
    "-DTORCH_TARGET_VERSION=0x020a000000000000",  # the stable ABI of torch 2.10
    "-DUSE_CUDA",
    "-cudart",
    "static",
    "-Xcompiler",
    "-fPIC,-fvisibility=hidden",
    "-Xptxas",
    "-v",  # registers and spills of every kernel, for scripts/check_library.py
)
"""How every file is compiled. Part of the key: another flag is another build."""


@dataclass(frozen=True)
class Built:
    """A library in a file, the CUDA that compiled it, and the architectures in it."""

    path: Path
    cuda: Version
    archs: tuple[str, ...]

    @property
    def log(self) -> Path:
        """What the compilers said."""
        return self.path.with_name("build.log")


def source_folder() -> Path:
    """csrc: inside an installed package, beside it in a checkout."""
    packaged = PACKAGE / "csrc"
    return packaged if packaged.is_dir() else PACKAGE.parent / "csrc"


def sources(folder: Path) -> list[Path]:
    """All that is compiled or included, sorted."""
    return sorted(p for p in folder.rglob("*") if p.suffix in (".cpp", ".cu", ".cuh", ".h"))


def cache_folder() -> Path:
    """Where builds are kept: SPARSETRAIN_CACHE, or sparsetrain in the user's cache folder.

    Raises BuildError for a user without a home folder.
    """
    own = os.environ.get("SPARSETRAIN_CACHE")
    if own:
        return Path(own) / "lib"
    cache = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(cache or Path.home() / ".cache") / "sparsetrain" / "lib"
    except RuntimeError as error:
        raise BuildError("no home folder to keep builds in", ELSEWHERE) from error


def digest(folder: Path) -> str:
    """Twelve hexadecimal digits that change with any byte of the sources, or with a flag."""
    state = hashlib.sha256("\0".join(FLAGS).encode())
    for path in sources(folder):
        content = path.read_bytes()
        state.update(f"\0{path.relative_to(folder).as_posix()}\0{len(content)}\0".encode())
        state.update(content)
    return state.hexdigest()[:12]


def build_name(folder: Path, cuda: Version, archs: Iterable[str]) -> str:
    """The folder of a build: '3f2a91c0b7d4-x86_64-cuda13.0-sm80-sm90a'."""
    archs = "-".join(f"sm{arch}" for arch in archs)
    return f"{digest(folder)}-{platform.machine()}-cuda{dotted(cuda)}-{archs}"


def find_built() -> Iterator[Built]:
    """Builds of the sources as they are now: those that the wheel carries, then the cached ones.

    Raises OSError for a cache that cannot be read, after those of the wheel.
    """
    yield from _builds_in(PACKAGE / "prebuilt")
    yield from _builds_in(cache_folder())


def _builds_in(root: Path) -> Iterator[Built]:
    if not root.is_dir():
        return  # the sources need not be read
    start = f"{digest(source_folder())}-{platform.machine()}-"
    for path in sorted(root.glob(f"{start}*/{LIBRARY}"), reverse=True):
        built = _parse(path, start)
        if built is not None:
            yield built


def _parse(path: Path, start: str) -> Built | None:
    found = re.fullmatch(r"cuda(\d+)\.(\d+)((?:-sm\w+)+)", path.parent.name.removeprefix(start))
    if found is None:
        return None
    archs = tuple(found[3].removeprefix("-sm").split("-sm"))
    return Built(path, (int(found[1]), int(found[2])), archs)
