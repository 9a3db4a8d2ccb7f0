"""Reading the files of a folder that `save_pretrained` wrote; another one is one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from sparsetrain.errors import installed

HEADER, WEIGHTS = "sparsity.json", "model.safetensors"


def read_header(folder: Path, fix: str) -> dict[str, Any]:
    """What `sparsity.json` says: `format`, `weights`, `tied` and `squared_relu` are there, of these
    types. Raises ValueError that ends in `fix` for another folder."""
    if folder.is_file():
        raise ValueError(f"folder={folder} is a file: give the folder that it is in")
    try:
        header = json.loads((folder / HEADER).read_text("utf-8"))
        known = {
            "format": str(header["format"]),
            "weights": dict(header["weights"]),
            "tied": dict(header.get("tied", {})),
            "squared_relu": [str(name) for name in header.get("squared_relu", [])],
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"folder={folder} has no {HEADER} that can be read: {fix}") from error
    return {**header, **known}


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """`read_header`, and the tensors of `model.safetensors` on the CPU. Raises ValueError where a
    file is not whole."""
    with installed("safetensors", "load_weights"):
        from safetensors import SafetensorError
        from safetensors.torch import load_file

    header = read_header(folder, "give a folder that st.save_pretrained wrote")
    try:
        return header, load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"folder={folder}: {WEIGHTS} cannot be read ({error}): copy or export it again"
        ) from error
