"""Folders that commands write to: that they can be made, and that no two runs share one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LOCK = ".running"


def make_folder(folder: Path, why: str) -> None:
    """Make a folder and those above it. Raises ValueError in one line where that cannot be, or
    where nothing can be written into it.

    why: the key=value that names it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{why}: the folder {folder} cannot be made: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"{why}: nothing can be written into {folder}: Permission denied")


def check_unused(folder: Path, checkpoint: str | None, why: str) -> None:
    """Raise ValueError in one line for a folder that holds the checkpoints of another run: this
    one's would take their place. One that goes on from a checkpoint in it is the same run."""
    checkpoints = folder / "checkpoints"
    held = sorted(checkpoints.glob("*.ckpt"))
    if not held:
        return
    if checkpoint and Path(checkpoint).resolve().is_relative_to(checkpoints.resolve()):
        return
    newest = max(held, key=lambda path: path.stat().st_mtime)
    raise ValueError(
        f"{why}: {folder} holds a run already, whose checkpoints this one's would replace: give "
        f"another folder, or go on from it with checkpoint={newest}"
    )


@contextmanager
def own_folder(folder: Path, why: str) -> Iterator[None]:
    """Hold a run's folder. Raises ValueError in one line while another process does; one that was
    killed holds nothing."""
    import fcntl

    make_folder(folder, why)
    with (folder / _LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{why}: another run is writing into {folder}: give another") from None
        try:
            yield
        finally:
            (folder / _LOCK).unlink(missing_ok=True)
