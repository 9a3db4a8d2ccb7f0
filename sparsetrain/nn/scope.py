"""Packing once for several micro-batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from sparsetrain.autograd import compute_dtype
from sparsetrain.nn.linear import SparseLinear
from sparsetrain.nn.mlp import SparseMlp
from sparsetrain.nn.roles import fc1_of, fc2_of
from sparsetrain.nn.sharded import is_sharded, reshard
from sparsetrain.products import BOTH, Forms


@contextmanager
def packed_once(model: nn.Module) -> Iterator[None]:
    """Multiply by the weights as they are packed here, in all forwards inside.

        with torch.autocast("cuda", torch.bfloat16), st.packed_once(model):
            for images, labels in micro_batches:
                criterion(model(images), labels).backward()
        optimizer.step()

    Without it each forward packs for itself, which is about 1 % of a step: it gains where
    micro-batches are small. Packed for products in autocast's dtype where autocast is on here, else
    in the weight's; forwards in another dtype pack for themselves. Raises RuntimeError on leaving
    if a weight was changed inside, and ValueError for weights that FSDP2 shards, which are whole in
    a forward alone.
    """
    reshard(model)
    forms: dict[nn.Module, Forms] = {}
    for mlp in model.modules():
        if isinstance(mlp, SparseMlp):
            forms |= {fc: mlp.forms(fc) for fc in (fc1_of(mlp), fc2_of(mlp))}
    layers = [m for m in model.modules() if isinstance(m, SparseLinear) and m.sparse]
    for layer in layers:
        if is_sharded(layer.weight):
            raise ValueError("model: FSDP2 shards it, so weights are packed in each forward")
    versions = [layer.weight._version for layer in layers]
    try:
        with torch.no_grad():
            for layer in layers:
                dtype = compute_dtype(layer.weight, layer.weight)
                layer.held = layer.packed(dtype, forms.get(layer, BOTH))
        yield
    finally:
        for layer in layers:
            layer.held = None
    if versions != [layer.weight._version for layer in layers]:
        raise RuntimeError("packed_once: weights were changed inside; step the optimizer after it")
