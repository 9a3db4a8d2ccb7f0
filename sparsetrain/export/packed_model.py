"""A folder of packed 2:4 weights as a model for inference."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from sparsetrain.export.folder import load_weights
from sparsetrain.export.packed import layout_of
from sparsetrain.export.read import read_header
from sparsetrain.inference import DTYPES, PackedLinear, packed_linears, put_packed
from sparsetrain.inference.engine import engine_of
from sparsetrain.inference.linear import short
from sparsetrain.nn import LayerReport, Report, SquaredReLU
from sparsetrain.nn.engine import find_engines
from sparsetrain.nn.given import check_module, unwrapped
from sparsetrain.nn.shares import unreached
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

    Packed weights go where the layer's weight was, and squared ReLU where 2:4 activations had put
    it. Of a model that is compiled or in DDP the module inside is loaded. Nothing in the folder is
    run.
    Raises ValueError naming the first tensor that is not as the header and the model say, and for a
    model that is packed already or on the meta device; and changes nothing then.
    """
    _check_model(model)
    folder, model = Path(folder), unwrapped(model)
    dtype, shapes, squared = _read_header(folder)
    state = load_weights(folder)
    _check_rest(model, state, shapes, folder)
    _check_activations(model, squared, folder)
    pairs = replace_conv1d(model)
    try:
        layers = {n: _layer(model, n, shape, dtype, state, folder) for n, shape in shapes.items()}
        rows = _place(layers)
        for name in squared:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, SquaredReLU())
        fused = put_packed(model, layers)
    finally:
        put_back(model, pairs)
    model.load_state_dict(state)
    return Report(rows, _dense(model), fused=fused, unreached=unreached(model))


def _check_model(model: nn.Module) -> None:
    check_module(model)
    if packed_linears(model):
        raise ValueError("the model is packed already: build it again, and load into the dense one")
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise ValueError(f"{name} is on the meta device: build the model on a CPU or a GPU")


def _dense(model: nn.Module) -> tuple[LayerReport, ...]:
    linears = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    shapes = {name: (m.out_features, m.in_features) for name, m in linears.items()}
    return tuple(LayerReport(n, s, "dense", reason="not packed there") for n, s in shapes.items())


def _read_header(folder: Path) -> tuple[torch.dtype, dict[str, tuple[int, int]], list[str]]:
    """The dtype of the packed weights, their names and shapes [O, I], and names of activations that
    are squared ReLU. Raises ValueError for another folder, and for bytes in another order."""
    fix = "give a folder that export format=packed wrote"
    header = read_header(folder, fix)
    if header["format"] != "packed":
        raise ValueError(f"folder={folder} has format={header['format'][:40]!r}: {fix}")
    shapes = {}
    for key, each in header["weights"].items():
        name, shape = key.removesuffix(".weight"), each.get("shape") if type(each) is dict else each
        rows, columns = shape if isinstance(shape, list) and len(shape) == 2 else (0, 0)
        whole = type(rows) is type(columns) is int
        if not whole or rows < 1 or columns < 1 or columns % 4:
            raise ValueError(f"folder={folder}: {name[:80]} is no shape of a 2:4 weight: {fix}")
        shapes[name] = rows, columns
    for dtype in DTYPES:
        if header.get("layout") == layout_of(dtype):
            return dtype, shapes, header["squared_relu"]
    raise ValueError(
        f"folder={folder}: its packed weights lie in another order than this version of "
        "sparsetrain reads: export the model again"
    )


def _check_rest(
    model: nn.Module, state: Mapping[str, Tensor], packed: Collection[str], folder: Path
) -> None:
    """Refuse a folder whose dense tensors are not the model's."""
    names = _all_names(model, packed)
    parts = {f"{name}.{part}" for name in names for part in ("values", "meta", "scales")}
    there = {key: tuple(t.shape) for key, t in state.items() if key not in parts}
    dense = {f"{name}.weight" for name in names}
    here = {key: tuple(t.shape) for key, t in model.state_dict().items() if key not in dense}
    differ = [key for key in {**here, **there} if here.get(key) != there.get(key)]
    if differ:
        key = differ[0]
        raise ValueError(
            f"folder={folder} is of another model: {key} is {there.get(key, 'absent')} there and "
            f"{here.get(key, 'absent')} here ({len(differ)} tensors differ)"
        )


def _all_names(model: nn.Module, names: Collection[str]) -> set[str]:
    """These, and the other names of layers that the model holds in several places."""
    modules = dict(model.named_modules(remove_duplicate=False))
    layers = {modules[name] for name in names if name in modules}
    return {*names, *(name for name, module in modules.items() if module in layers)}


def _check_activations(model: nn.Module, squared: list[str], folder: Path) -> None:
    modules = dict(model.named_modules(remove_duplicate=False))
    for name in squared:
        if name not in modules:
            raise ValueError(
                f"folder={folder} is of another model: {name} is squared ReLU there and absent here"
            )


def _layer(
    model: nn.Module,
    name: str,
    shape: tuple[int, int],
    dtype: torch.dtype,
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
    if why := _why_not(shape, dtype, values, meta, scales):
        raise ValueError(f"folder={folder}: {name}.{why}; export it again")
    assert values is not None, "looked at"
    assert meta is not None, "looked at"
    return PackedLinear(values, meta, scales, linear.bias).to(linear.weight.device)


def _why_not(
    shape: tuple[int, int],
    dtype: torch.dtype,
    values: Tensor | None,
    meta: Tensor | None,
    scales: Tensor | None,
) -> str:
    """What of a packed weight is not as it is of a weight of that shape; empty if all is."""
    rows, columns = shape
    if values is None or values.dtype != dtype or values.shape != (rows, columns // 2):
        return f"values is not [{rows}, {columns // 2}] of {dtype}"
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
