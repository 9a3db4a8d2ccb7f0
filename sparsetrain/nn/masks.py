"""Choosing masks and phases by hand; `attach` does both around the optimizer's steps."""

from __future__ import annotations

from torch import nn

from sparsetrain.nn.for_inference import refuse_packed
from sparsetrain.nn.linear import SparseLinear, sparse_linears
from sparsetrain.nn.mlp import SparseMlp
from sparsetrain.nn.phase import Phase
from sparsetrain.nn.shard_masks import masks_of_shards
from sparsetrain.nn.sharded import reshard


def update_masks(model: nn.Module) -> None:
    """Choose every layer's mask from its weight now; training keeps it until the next call.

    Without any call masks follow the weights in every forward. With several processes call it on
    each, once their weights are the same: after DDP or FSDP2 (`fully_shard`) took the model.
    Every rank keeps the whole mask. Where 2:4 tiles do not lie whole in the shards, and for other
    patterns, weights are gathered for it, one at a time.
    """
    reshard(model)
    layers = sparse_linears(model).values()
    chosen = masks_of_shards(layers)
    for layer in layers:
        layer.update_mask(chosen.get(layer))


def set_sparse(model: nn.Module, sparse: bool) -> None:
    """Run the converted layers sparse, or dense with the same parameters.

    Entering a sparse phase fixes what a method fixes at its start (β of S-STE), from weights that
    all ranks must share by then, as in `update_masks`. Raises ValueError for a model whose layers
    are packed for inference.
    """
    reshard(model)
    phases: dict[Phase, Phase] = {}
    layers = phased_layers(model)
    if not layers:
        refuse_packed(model, "set_sparse")
    for layer in layers:
        if isinstance(layer, SparseLinear) and sparse and not layer.sparse:
            layer.start()
        # An attached phase changes for all that share it; else a copy of the model keeps its own.
        old = layer.phase
        new = phases.setdefault(old, old if old.attached else old.another(old.total))
        layer.phase = new
    for phase in phases.values():
        phase.set(sparse)


def phased_layers(model: nn.Module) -> list[SparseLinear | SparseMlp]:
    """All layers that run sparse or dense by their phase."""
    return [m for m in model.modules() if isinstance(m, (SparseLinear, SparseMlp))]
