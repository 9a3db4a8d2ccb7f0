"""Checkpoints that are whole or absent."""

from __future__ import annotations

import difflib
import os
import pickle
from pathlib import Path
from typing import Any, BinaryIO

import torch

from sparsetrain.file_format import CHECKPOINT_KEY, check_format
from sparsetrain.lightning.flavour import TorchCheckpointIO
from sparsetrain.plain import plain


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, syncs, renames: a kill at any moment leaves the old file or the
    new one.

    For local file systems. Lightning's own writer goes through the system's temporary folder,
    where the last move is a copy if that is another file system. Raises ValueError for
    `storage_options`, of which there are none.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        if storage_options is not None:
            raise ValueError(
                f"storage_options={storage_options}: there are none to give; pass None"
            )
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.unfinished")
        try:
            with unfinished.open("wb") as file:
                _write(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
        finally:
            # There still if the disk was full, say.
            unfinished.unlink(missing_ok=True)

    def load_checkpoint(self, path: Any, *rest: Any, **named: Any) -> dict[str, Any]:
        """As Lightning's; where it reads weights only, copied to plain values. Raises ValueError
        for others."""
        checkpoint = super().load_checkpoint(path, *rest, **named)
        weights_only = named.get("weights_only", rest[1] if len(rest) > 1 else None)
        return checkpoint if weights_only is False else plain(checkpoint, f"ckpt_path={path}")


class _Kept:
    """A file to write to that keeps the error of the system, for which torch raises its own."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def _write(checkpoint: dict[str, Any], file: BinaryIO) -> None:
    kept = _Kept(file)
    try:
        torch.save(checkpoint, kept)  # pyright: ignore[reportArgumentType]
    except (OSError, RuntimeError) as error:
        raise (kept.error or error) from error


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint of this package on the CPU, tensors and plain values only.

    Raises FileNotFoundError naming the nearest checkpoints, ValueError if it is none, or of a
    format that is not read here.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        inside = sorted(map(str, path.glob("**/*.ckpt")))[:5]
        found = f"give one of {', '.join(inside)}" if inside else "it has no .ckpt file"
        raise IsADirectoryError(f"checkpoint={path} is a folder: {found}")
    if not path.is_file():
        files = [*path.parent.glob("*.ckpt")] or [*Path("runs").glob("**/*.ckpt")]
        near = difflib.get_close_matches(str(path), map(str, files), n=5, cutoff=0.0)
        found = ", ".join(near) or "no .ckpt file there or under runs/"
        raise FileNotFoundError(f"checkpoint={path} does not exist; found: {found}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, LookupError, ValueError, pickle.PickleError) as error:
        # torch's messages are long, or one number; the cause is chained.
        why = f"{type(error).__name__} on reading it: cut short, or no checkpoint of fit's"
        raise ValueError(f"checkpoint={path} cannot be read ({why})") from error
    checkpoint = plain(checkpoint, f"checkpoint={path}")
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise ValueError(f"checkpoint={path} has no state_dict: it is no training checkpoint")
    check_format(checkpoint.get(CHECKPOINT_KEY), f"checkpoint={path}")
    return checkpoint
