"""Layers that are pruned already, in a folder: what an interrupted pruning goes on from."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from sparsetrain.plain import plain

_OF = "of.txt"


class Finished(TypedDict):
    """weight: [O, I] as it was pruned. mask: bits, uint8 [O, ceil(I/8)]. error: of the output,
    where it is known."""

    weight: Tensor
    mask: Tensor
    error: float | None


class FinishedLayers:
    """A folder with a file for each finished layer: its weight, its mask and its error.

    Files are written beside their place and renamed, hold tensors and plain values, and are read
    with weights_only. `of.txt` says which model and which options they are of; another pruning
    does not go on from them.

    of: more that must be the same, such as the name of the calibration data.
    """

    def __init__(self, folder: str | Path, of: str = "") -> None:
        self.folder, self.of, self._said = Path(folder), of, ""

    def open(self, model: nn.Module, options: str) -> None:
        """Say which model and options the layers are of. Raises ValueError where the folder holds
        layers of others."""
        self._said = "\n".join([f"weights {_digest(model)}", options, self.of, ""])
        path = self.folder / _OF
        if path.exists() and path.read_text("utf-8") != self._said:
            raise ValueError(
                f"{self.folder} holds layers of another pruning (its {_OF} says which): delete it, "
                "or write elsewhere"
            )

    def load(self, number: int, name: str, weight: Tensor) -> Finished | None:
        """A finished layer, None where it is not finished. weight: as it is before.
        Raises ValueError for a file that is not of that layer."""
        path = self._path(number)
        if not path.is_file():
            return None
        try:
            loaded = torch.load(path, map_location=weight.device, weights_only=True)
        except (RuntimeError, EOFError, OSError, LookupError, pickle.PickleError) as error:
            raise ValueError(f"{path} cannot be read: delete it") from error
        saved = plain(loaded, str(path))
        if not isinstance(saved, dict) or saved.keys() != {"name", "weight", "mask", "error"}:
            raise ValueError(f"{path} is no finished layer: delete it")
        shape = weight.shape[0], (weight.shape[1] + 7) // 8
        right = (
            saved["name"] == name
            and _is(saved["weight"], weight.dtype, weight.shape)
            and _is(saved["mask"], torch.uint8, shape)
        )
        if not right:
            raise ValueError(f"{path} is not of {name}, as it is here: delete it")
        return {"weight": saved["weight"], "mask": saved["mask"], "error": saved["error"]}

    def save(self, number: int, name: str, pruned: Finished) -> None:
        """Keep a layer."""
        if not (self.folder / _OF).exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            _write(self.folder / _OF, self._said.encode())
        path = self._path(number)
        unfinished = path.with_name(f".{path.name}.unfinished")
        weight, mask = pruned["weight"].cpu(), pruned["mask"].cpu()
        saved = {"name": name, "weight": weight, "mask": mask, "error": pruned["error"]}
        torch.save(saved, unfinished)
        os.replace(unfinished, path)

    def delete(self) -> None:
        """Delete the folder, once the whole model is saved."""
        if not self.folder.exists():
            return
        for path in [*self.folder.glob("*.pt"), *self.folder.glob(".*.unfinished")]:
            path.unlink()
        (self.folder / _OF).unlink(missing_ok=True)
        self.folder.rmdir()

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:05}.pt"


def _write(path: Path, data: bytes) -> None:
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_bytes(data)
    os.replace(unfinished, path)


def _digest(model: nn.Module) -> str:
    """Of every parameter and its name."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        values = parameter.detach().cpu().contiguous().flatten()
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}".encode())
        digest.update(values.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _is(value: Any, dtype: torch.dtype, shape: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == dtype and value.shape == tuple(shape)
