"""What the sparsity of a model is right now."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsetrain.nn.for_inference import refuse_packed
from sparsetrain.nn.linear import SparseLinear, sparse_linears
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
    layers = sparse_linears(model)
    if not layers:
        refuse_packed(model, "inspect")
        return []
    sums = [_sums(layer) for layer in layers.values()]
    device = sums[0].device  # all at once: each reading waits for the GPU
    rows: list[list[float]] = torch.stack([row.to(device) for row in sums]).tolist()
    return [_stats(*named, row) for named, row in zip(layers.items(), rows, strict=True)]


def _sums(layer: SparseLinear) -> Tensor:
    """float64 [6]: Σ w², that of the mask, that of the outer level; numbers that are used, flipped
    bits, NaNs. 0 where there is no such sum."""
    weight = whole(layer.weight).float()
    mask = layer.current_mask()
    kept = mask24(weight, mask)
    outer = torch.zeros((), device=weight.device)
    if isinstance(layer.pattern, TwoLevel):
        bits = layer.pattern.outer(unpack_bits(mask, layer.in_features))
        outer = _energy(torch.where(bits, weight, 0))
    used = layer.used_weight().count_nonzero()
    flipped = used.new_zeros(()) if layer.flipped is None else layer.flipped
    sums = [_energy(weight), _energy(kept), outer, used, flipped, weight.isnan().sum()]
    return torch.stack([s.to(weight.device, torch.float64) for s in sums])


def _energy(weight: Tensor) -> Tensor:
    return weight.square().sum()


def _stats(name: str, layer: SparseLinear, sums: list[float]) -> LayerStats:
    energy, kept, outer, used, flipped, nan = sums
    shape = (layer.out_features, layer.in_features)
    numel = shape[0] * shape[1]
    return LayerStats(
        name,
        shape,
        density=used / numel if layer.sparse else 1.0,
        kept_energy=_share(kept, energy),
        flip_rate=None if layer.flipped is None else flipped / numel,
        nan=int(nan),
        outer_energy=_share(outer, energy) if isinstance(layer.pattern, TwoLevel) else None,
    )


def _share(kept: float, energy: float) -> float:
    if energy == 0:
        return 1.0
    return kept / energy if math.isfinite(energy) else math.nan


def density(model: nn.Module) -> float:
    """Share of all sparse layers' weights that their products use; 1.0 without any."""
    stats = inspect(model)
    total = sum(s.shape[0] * s.shape[1] for s in stats)
    return sum(s.density * s.shape[0] * s.shape[1] for s in stats) / total if total else 1.0
