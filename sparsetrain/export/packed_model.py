"""A folder of packed 2:4 weights as a model for inference."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsetrain.export.folder import HEADER, load_weights
from sparsetrain.inference import DTYPES, PackedLinear, put_packed
from sparsetrain.inference.engine import engine_of
from sparsetrain.inference.linear import short
from sparsetrain.nn import LayerReport, Report
from sparsetrain.nn.engine import find_engines
from sparsetrain.pruning.conv1d import put_back, replace_conv1d
from sparsetrain.reference.pack24 import EIGHT_BITS, meta_order24, meta_shape24, nibbles24

_LEGAL = (4, 8, 9, 12, 13, 14)
"""Nibbles of metadata whose first position is below the second."""


def load_packed(model: nn.Module, folder: str | Path) -> Report:
    """Make `model` the quantized model of a folder that `save_pretrained(…, "packed")` wrote, in
    place; say what runs each packed layer.

        st.quantize(trained, torch.float8_e4m3fn)
        st.save_pretrained(trained, "out", "packed")
        model = build()                     # of the same architecture, any weights
        st.load_packed(model, "out")        # the outputs of `trained`, bit for bit

    Packed weights go where the layer's weight was. Nothing in the folder is run.
    Raises ValueError naming the first tensor that is not as the header and the model say, and
    changes nothing then.
    """
    folder = Path(folder)
    shapes = _read_header(folder)
    state = load_weights(folder)
    _check_rest(model, state, shapes, folder)
    pairs = replace_conv1d(model)
    try:
        layers = {n: _layer(model, n, shape, state, folder) for n, shape in shapes.items()}
        rows = _place(layers)
        fused = put_packed(model, layers)
    finally:
        put_back(model, pairs)
    model.load_state_dict(state)
    return Report(rows, (), fused=fused)


def _read_header(folder: Path) -> dict[str, tuple[int, int]]:
    """Names and shapes [O, I] of the packed weights. Raises ValueError for another folder."""
    fix = "give a folder that export format=packed wrote"
    try:
        header = json.loads((folder / HEADER).read_text("utf-8"))
        form, weights = header["format"], header["weights"]
        shapes = {str(k).removesuffix(".weight"): each["shape"] for k, each in weights.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"folder={folder} has no {HEADER} that can be read: {fix}") from error
    if form != "packed":
        raise ValueError(f"folder={folder} has format={str(form)[:40]!r}: {fix}")
    for name, shape in shapes.items():
        sizes = shape if isinstance(shape, list) and len(shape) == 2 else [None]
        if not all(type(size) is int and size > 0 for size in sizes) or shape[1] % 4:
            raise ValueError(f"folder={folder}: {name[:80]} is no shape of a 2:4 weight: {fix}")
    return {name: (shape[0], shape[1]) for name, shape in shapes.items()}


def _check_rest(
    model: nn.Module, state: Mapping[str, Tensor], packed: Mapping[str, Any], folder: Path
) -> None:
    """Refuse a folder whose dense tensors are not the model's."""
    parts = {f"{name}.{part}" for name in packed for part in ("values", "meta", "scales")}
    there = {key: tuple(t.shape) for key, t in state.items() if key not in parts}
    dense = {f"{name}.weight" for name in packed}
    here = {key: tuple(t.shape) for key, t in model.state_dict().items() if key not in dense}
    differ = [key for key in {**here, **there} if here.get(key) != there.get(key)]
    if differ:
        key = differ[0]
        raise ValueError(
            f"folder={folder} is of another model: {key} is {there.get(key, 'absent')} there and "
            f"{here.get(key, 'absent')} here ({len(differ)} tensors differ)"
        )


def _layer(
    model: nn.Module,
    name: str,
    shape: tuple[int, int],
    state: Mapping[str, Tensor],
    folder: Path,
) -> PackedLinear:
    """The packed layer of that name, where the model's linear layer is."""
    linear = dict(model.named_modules()).get(name)
    if not isinstance(linear, nn.Linear) or tuple(linear.weight.shape) != shape:
        here = "absent" if linear is None else f"{type(linear).__name__}({linear.extra_repr()})"
        raise ValueError(
            f"folder={folder} is of another model: {name} is a weight of {list(shape)} there and "
            f"{here} here"
        )
    values, meta, scales = (state.get(f"{name}.{part}") for part in ("values", "meta", "scales"))
    if why := _why_not(shape, values, meta, scales):
        raise ValueError(f"folder={folder}: {name}.{why}; export it again")
    assert values is not None, "looked at"
    assert meta is not None, "looked at"
    return PackedLinear(values, meta, scales, linear.bias).to(linear.weight.device)


def _why_not(
    shape: tuple[int, int], values: Tensor | None, meta: Tensor | None, scales: Tensor | None
) -> str:
    """What of a packed weight is not as it is of a weight of that shape; empty if all is."""
    rows, columns = shape
    if values is None or values.dtype not in DTYPES or values.shape != (rows, columns // 2):
        return f"values is not [{rows}, {columns // 2}] of {', '.join(map(str, DTYPES))}"
    order = meta_order24(values.dtype)
    if meta is None or meta.dtype != torch.uint8 or meta.shape != meta_shape24(*shape, order):
        return f"meta is not uint8 {list(meta_shape24(*shape, order))}"
    nibbles = nibbles24(meta, rows, columns // 4, order)
    if not torch.isin(nibbles, torch.tensor(_LEGAL, dtype=torch.uint8)).all():
        return "meta has positions that no 2:4 row has"
    quantized = values.dtype in EIGHT_BITS
    if quantized and (scales is None or (scales.dtype, scales.shape) != (torch.float32, (rows, 1))):
        return f"scales is not float32 [{rows}, 1]"
    return "scales belongs to no 16-bit values" if scales is not None and not quantized else ""


def _place(layers: Mapping[str, PackedLinear]) -> tuple[LayerReport, ...]:
    """Find the product of each layer. Raises ValueError as `quantize` does."""
    engines = find_engines("auto", not any(layer.values.is_cuda for layer in layers.values()))
    rows = []
    for name, layer in layers.items():
        shape, dtype = (layer.out_features, layer.in_features), layer.values.dtype
        layer.product, why = engine_of(engines, dtype, name, shape)
        rows.append(LayerReport(name, shape, f"2:4 {short(dtype)}", why))
    return tuple(rows)
