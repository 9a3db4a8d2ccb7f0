"""`export format=dense|coo|csr|bsr|semi_structured|packed`: a folder that other libraries read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from sparsetrain.cli.console import relative, show_values
from sparsetrain.cli.folder import make_folder
from sparsetrain.cli.load import Trained
from sparsetrain.export import save_pretrained
from sparsetrain.nn import SquaredReLU
from sparsetrain.recipe import nearest

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_PACKED = {
    "fp8": torch.float8_e4m3fn,
    "int8": torch.int8,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def export_folder(trained: Trained, options: dict[str, str]) -> None:
    """Write a checkpoint's network into `out=`, read it back, and say what is there."""
    form: Any = options["format"]
    out = Path(options.get("out") or _beside(options["checkpoint"], form))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"out={out} is not an empty folder: give another out=")
    make_folder(out.parent, f"out={out}")
    densities = save_pretrained(
        trained.network,
        out,
        form,
        block=_block(options),
        dtype=_dtype(options),
        config=_config(trained),
    )
    size = sum(path.stat().st_size for path in out.iterdir()) / 1e6
    mean = sum(densities.values()) / max(len(densities), 1)
    rows = [
        ("written", f"{relative(out)}{'/'} ({size:.1f} MB)"),
        ("layers", f"{len(densities)} as {_what(options)}, density {mean:.3f}: values verified"),
        ("read", f'sparsetrain.load_weights("{relative(out)}")'),
    ]
    if form == "dense":
        rows[2] = ("read", f'timm.create_model("local-dir:{relative(out)}", pretrained=True)')
    if form == "semi_structured":
        packs = "torch.sparse.to_sparse_semi_structured(weight), on the GPU that multiplies it"
        rows.append(("pack", packs))
    if form == "packed":
        rows[2:] = [
            ("build", f'model = timm.create_model("local-dir:{relative(out)}")'),
            ("read", f'sparsetrain.load_packed(model, "{relative(out)}")'),
        ]
    elif _squared_relu(trained):
        rows.append(("activation", "squared ReLU in the MLPs: put it where sparsity.json says"))
    show_values(tuple(rows), prose=("layers", "pack", "activation"))


def _beside(checkpoint: str, form: str) -> Path:
    path = Path(checkpoint)
    return path.with_name(f"{path.stem}-{form.replace('_', '-')}")


def _config(trained: Trained) -> dict[str, Any]:
    """What timm reads: `timm.create_model("local-dir:FOLDER", pretrained=True)` builds the network
    of it and loads its weights."""
    model = trained.config.model
    options = {str(key): value for key, value in (model.get("options") or {}).items()}
    return {
        "architecture": model.name,
        "num_classes": model.num_classes,
        "model_args": {"img_size": model.img_size, **options},
        "pretrained_cfg": {"input_size": [3, model.img_size, model.img_size]},
        "mlp_activation": "squared_relu" if _squared_relu(trained) else "the model's own",
    }


def _squared_relu(trained: Trained) -> bool:
    return any(isinstance(module, SquaredReLU) for module in trained.network.modules())


def _what(options: dict[str, str]) -> str:
    dtype = f" {options.get('dtype', 'fp8')}" if options["format"] == "packed" else ""
    return f"{options['format']}{dtype}"


def _dtype(options: dict[str, str]) -> torch.dtype | None:
    text, known = options.get("dtype"), _PACKED if options["format"] == "packed" else _DTYPES
    if text is not None and text not in known:
        raise ValueError(
            f"dtype={text!r} with format={options['format']}: {nearest(text, tuple(known))}"
        )
    return known[text] if text else None


def _block(options: dict[str, str]) -> tuple[int, int] | None:
    text = options.get("block")
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None or "0" in match.groups():
        raise ValueError(f"block={text!r}: give rows and columns, as block=64x64")
    return int(match[1]), int(match[2])
