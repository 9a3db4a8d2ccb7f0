"""What the sparsity of a model is right now."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsetrain.nn.for_inference import refuse_packed
from sparsetrain.nn.linear import sparse_linears
from sparsetrain.nn.sharded import reshard, whole
from sparsetrain.ops import mask24
from sparsetrain.patterns import TwoLevel
from sparsetrain.reference.masks24 import unpack_bits


@dataclass(frozen=True)
class LayerStats:
    """One sparse layer. All fractions in [0, 1].

    density: share of the weight that the product uses; 1.0 in a dense phase.
    kept_energy: share of Σ w² under the mask; NaN if the sum is not finite. outer_energy: of
        patterns of two levels, the share in what the outer one keeps (blocks, columns); else None.
    flip_rate: share of mask bits that changed at the last choice; None before the second one, and
        where none was counted (`mask_every=1`, unless `attached.masks.counts_flips`).
    nan: weights that are NaN.
    """

    name: str
    shape: tuple[int, int]
    density: float
    kept_energy: float
    flip_rate: float | None
    nan: int
    outer_energy: float | None = None


@torch.no_grad()
def inspect(model: nn.Module) -> list[LayerStats]:
    """Density, kept energy and flip rate of every sparse linear layer, in model order.

    Of whole weights: all ranks call it where FSDP2 shards them. Raises ValueError for a model whose
    layers are packed for inference.
    """
    reshard(model)
    stats, layers = [], sparse_linears(model)
    if not layers:
        refuse_packed(model, "inspect")
    for name, layer in layers.items():
        weight = whole(layer.weight).float()
        energy = weight.square().sum()
        mask, outer_energy = layer.current_mask(), None
        kept_energy = _share(mask24(weight, mask), energy)
        if isinstance(layer.pattern, TwoLevel):
            outer = layer.pattern.outer(unpack_bits(mask, layer.in_features))
            outer_energy = _share(torch.where(outer, weight, 0), energy)
        used = int(layer.used_weight().count_nonzero())
        density = used / weight.numel() if layer.sparse else 1.0
        flips = None if layer.flipped is None else int(layer.flipped) / weight.numel()
        shape = (layer.out_features, layer.in_features)
        nan = int(weight.isnan().sum())
        stats.append(LayerStats(name, shape, density, kept_energy, flips, nan, outer_energy))
    return stats


def _share(kept: Tensor, energy: Tensor) -> float:
    return 1.0 if energy == 0 else float(kept.square().sum() / energy)


def density(model: nn.Module) -> float:
    """Share of all sparse layers' weights that their products use; 1.0 without any."""
    stats = inspect(model)
    total = sum(s.shape[0] * s.shape[1] for s in stats)
    return sum(s.density * s.shape[0] * s.shape[1] for s in stats) / total if total else 1.0
