"""2:4 masks of weights in shards: a rank chooses the bits of its own rows, and gathers the others.

A tile of a 2:4 mask lies in four rows. Where every rank has equally many rows, a multiple of four,
its bits are those of the whole weight's mask. Bits are a 32nd of float32 weights, and those of all
layers are gathered at once.

Dimension key:  N ranks   R rows of a rank   B bytes of bits in a row   S = R · B
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor

from sparsetrain.nn.linear import SparseLinear
from sparsetrain.nn.sharded import even_shards, local
from sparsetrain.ops import select24
from sparsetrain.patterns import NM


@torch.no_grad()
def masks_of_shards(layers: Iterable[SparseLinear]) -> dict[SparseLinear, Tensor]:
    """The whole masks of those layers whose ranks can choose their own rows', bits as in
    `SparseLinear.update_mask`. All ranks call it."""
    meshes: dict[tuple[dist.ProcessGroup, torch.device], list[SparseLinear]] = {}
    for layer in layers:
        if isinstance(layer.pattern, NM) and not layer.method.resets:
            group = even_shards(layer.weight, multiple=4)
            if group is not None:
                meshes.setdefault((group, layer.weight.device), []).append(layer)
    masks: dict[SparseLinear, Tensor] = {}
    for (group, device), members in meshes.items():
        own = [select24(local(m.weight), m.selection.rule).flatten() for m in members]
        sizes = [bits.numel() for bits in own]
        n_ranks = group.size()
        gathered = torch.empty(n_ranks * sum(sizes), dtype=torch.uint8, device=device)
        dist.all_gather_into_tensor(gathered, torch.cat(own), group)
        whole = [torch.empty(n_ranks, size, dtype=torch.uint8, device=device) for size in sizes]
        torch.split_with_sizes_copy(gathered.view(n_ranks, -1), sizes, 1, out=whole)
        for layer, mask_NS in zip(members, whole, strict=True):
            masks[layer] = mask_NS.view(layer.weight.shape[0], -1)
    return masks
