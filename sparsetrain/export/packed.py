"""Packed 2:4 weights in a folder: a quantized model's state dict, and what says how it lies."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sparsetrain.export.whole_copy import whole_copy
from sparsetrain.inference import PackedLinear, packed_linears, quantize
from sparsetrain.inference.linear import short
from sparsetrain.reference.pack24 import EIGHT_BITS, meta_order24

E4M3 = torch.float8_e4m3fn


def packed_state(
    model: nn.Module, dtype: torch.dtype | None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict of a model as `quantize` makes it, and the header that describes it.

    dtype: of `quantize`, float8_e4m3fn if None. A model that was quantized is taken as it is.
    Raises ValueError as `quantize` does, and for another dtype than a quantized model's.
    """
    layers = packed_linears(model)
    if not layers:
        model = whole_copy(model)
        quantize(model, dtype or E4M3)
        layers = packed_linears(model)
    found = next(iter(layers.values())).values.dtype
    if dtype not in (None, found):
        raise ValueError(f"dtype={dtype}: the model is packed in {found}: leave dtype out")
    weights = {
        f"{name}.weight": {
            "shape": [layer.out_features, layer.in_features],
            "density": int((layer.values.float() != 0).sum()) / (2 * layer.values.numel()),
        }
        for name, layer in layers.items()
    }
    header = {"format": "packed", "layout": layout_of(found), "weights": weights}
    # A state dict has copies, and float8 values as bytes.
    held = {
        f"{name}.{part}": tensor
        for name, layer in model.named_modules(remove_duplicate=False)
        if isinstance(layer, PackedLinear)
        for part, tensor in layer.held().items()
    }
    return {**model.state_dict(), **held}, header


def layout_of(dtype: torch.dtype) -> dict[str, Any]:
    """How the tensors of a packed weight lie, for readers without sparsetrain."""
    order = meta_order24(dtype)
    quantized = dtype in EIGHT_BITS
    return {
        "dtype": short(dtype),
        "values": "[out, in / 2], two of each four of a row, in order of position",
        "meta": {
            "shape": "[ceil(in / columns), ceil(out / 64), bytes]",
            "columns": 128 if quantized else 64,
            "bytes": 1024 if quantized else 512,
            "nibble": "first position + 4 * second position, of two groups in a byte, low first",
            "order": order,
        },
        "scales": "float32 [out, 1]: weight = value * scale" if quantized else None,
    }
