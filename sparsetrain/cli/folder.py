"""Folders that commands write to."""

from __future__ import annotations

from pathlib import Path


def make_folder(folder: Path, why: str) -> None:
    """Make a folder and those above it. Raises ValueError in one line where that cannot be.

    why: the key=value that names it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{why}: the folder {folder} cannot be made: {error.strerror}") from error
