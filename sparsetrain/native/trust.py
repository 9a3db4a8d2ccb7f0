"""Which folders a kernel library may be loaded from: what only the user and root can write.

A library runs with the rights of the process that loads it. So it, its folder and every folder
above must belong to the user or to root, and nobody else may write there. A sticky folder such as
/tmp may stand above, because what the user owns in it stays where it is. The library of a wheel is
compared with the package around it instead: whoever may write that runs code here already.
"""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

from sparsetrain.native import find
from sparsetrain.native.toolkit import BuildError


def trusted_library(path: Path) -> Path:
    """The real path of a library in a folder of builds, for loading. Raises BuildError, OSError."""
    for folder in (path.parent.parent, path.parent):
        trusted(folder)
    return trusted(path)


def trusted(path: Path) -> Path:
    """A file or folder that only the user and root can write, links resolved.

    Folders are checked from / down, so nobody else can exchange what was checked before it is
    used. Raises BuildError that names the first one that others may write, and OSError where there
    is nothing.
    """
    real = Path(os.path.realpath(path, strict=True))
    trust = {"user 0", f"user {os.geteuid()}"}
    checked = [*reversed(real.parents), real]
    packaged = find.PACKAGE in real.parents
    if packaged:
        trust |= _writers(find.PACKAGE.stat())
        checked = checked[checked.index(find.PACKAGE) + 1 :]
    for part in checked:
        found = part.lstat()
        sticky = bool(found.st_mode & stat.S_ISVTX)
        others = _writers(found) - trust
        if sticky and part != real:
            others &= {f"user {found.st_uid}"}
        if others:
            raise _refusal(part, found, sorted(others), packaged)
    return real


def make_folder(folder: Path) -> None:
    """Make a folder and those above that are missing: for the user alone, in the package for all.

    Raises OSError.
    """
    mode = 0o755 if find.PACKAGE in folder.parents else 0o700
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(mode, exist_ok=True)  # another process may make it meanwhile
    if not folder.is_dir():
        raise NotADirectoryError(20, "Not a directory", str(folder))


def _writers(found: os.stat_result) -> set[str]:
    """Who may write: its owner, its group, everyone."""
    writers = {f"user {found.st_uid}"}
    if found.st_mode & stat.S_IWGRP:
        writers.add(f"group {found.st_gid}")
    if found.st_mode & stat.S_IWOTH:
        writers.add("everyone")
    return writers


def _refusal(path: Path, found: os.stat_result, others: list[str], packaged: bool) -> BuildError:
    fix = "set SPARSETRAIN_CACHE to a folder that only you can write"
    if packaged:
        fix = "compile one of your own: python -m sparsetrain build"
    owner = f"user {found.st_uid}"
    if owner in others:
        if os.geteuid() == 0:
            fix = f"chown -R root {shlex.quote(str(path))} if you trust what is there, or {fix}"
        return BuildError(f"{path} belongs to {owner}, neither to you nor to root", fix)
    if found.st_mode & stat.S_ISVTX:
        fix = "name a folder inside it"
    elif os.geteuid() in (0, found.st_uid):
        fix = f"chmod go-w {shlex.quote(str(path))}"
    return BuildError(f"{path} is writable by {' and '.join(others)}", fix)
