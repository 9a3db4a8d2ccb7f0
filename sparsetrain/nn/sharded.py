"""Weights that FSDP2 (`torch.distributed.fsdp.fully_shard`) shards, seen from outside a forward.

In a forward, and in its backward, FSDP2 puts whole plain tensors into the modules, in the dtype of
its MixedPrecisionPolicy: masks are chosen and weights packed from those, on every rank the same.
Elsewhere a module holds a DTensor: this rank's rows of the master weight. Once a model is made
sparse, what is chosen there is chosen from the whole master weight, on every rank the same, and
what is added to a gradient is added to this rank's rows.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

_PLAIN = (Tensor, nn.Parameter)


def is_sharded(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether a tensor is a DTensor. What compiled code sees is not asked, and is none."""
    if torch.compiler.is_compiling() or type(tensor) in _PLAIN:
        return False
    # DTensor is slow to import. If it was never imported, no tensor is a DTensor.
    loaded = sys.modules.get("torch.distributed.tensor")
    return loaded is not None and isinstance(tensor, loaded.DTensor)


def is_wrapped(module: nn.Module) -> TypeGuard[FSDPModule]:
    """Whether `fully_shard` was called with this very module, which makes another class of it."""
    if "torch.distributed.fsdp" not in sys.modules:
        return False
    from torch.distributed.fsdp import FSDPModule

    return isinstance(module, FSDPModule)


def reshard(model: nn.Module) -> None:
    """Have every module hold its shards again.

    After a forward without a backward FSDP2 leaves the root's weights whole: copies, maybe in
    bfloat16, that the next optimizer step does not change. Nothing outside may read those.
    """
    for module in wrapped(model):
        module.reshard()


def wrapped(model: nn.Module) -> list[FSDPModule]:
    """The modules in a model that `fully_shard` was called with."""
    return [module for module in model.modules() if is_wrapped(module)]


@torch.no_grad()
def whole(weight: Tensor) -> Tensor:
    """The whole weight in its own dtype, plain and detached; gathered if it is sharded.

    All ranks have to call it for a sharded weight, or those that do wait.
    """
    return weight.full_tensor() if is_sharded(weight) else weight.detach()


def local(tensor: Tensor) -> Tensor:
    """The rows that this rank holds, maybe none, to be changed in place; a plain tensor itself."""
    # `to_local` returns this tensor too, but first checks whether it needs a gradient.
    return tensor._local_tensor if is_sharded(tensor) else tensor


def own_rows(x: Tensor, weight: Tensor) -> Tensor:
    """The rows of x [O, ...], whole, that belong to the rows of weight [O, I] that are here.

    Raises ValueError for a weight that is not sharded by rows.
    """
    if not is_sharded(weight):
        return x
    if (dim := _row_dim(weight)) is not None:
        # In chunks as torch.chunk's, without the tenths of a millisecond of a DTensor.
        mesh = weight.device_mesh
        coordinate = mesh.get_coordinate()
        assert coordinate is not None, "it has a part of the weight"
        rows = -(-x.shape[0] // mesh.size(dim))
        return x[rows * coordinate[dim] :][:rows]
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    if not all(placement in (Replicate(), Shard(0)) for placement in weight.placements):
        raise ValueError(
            f"weight is sharded as {weight.placements}, and only rows can be told apart: leave "
            "shard_placement_fn of fully_shard out"
        )
    # With no source every rank takes its part of what it has itself; nothing is sent.
    return distribute_tensor(
        x, weight.device_mesh, weight.placements, src_data_rank=None
    ).to_local()


def even_shards(weight: Tensor, multiple: int) -> ProcessGroup | None:
    """The ranks that share a weight by rows, equally many on each and a multiple of `multiple`;
    None where they do not."""
    if not is_sharded(weight) or (dim := _row_dim(weight)) is None:
        return None
    mesh = weight.device_mesh
    even = weight.shape[0] % (multiple * mesh.size(dim)) == 0
    return mesh.get_group(dim) if even else None


def _row_dim(weight: DTensor) -> int | None:
    """The dimension of the mesh that rows are shared along; None if it is not one alone."""
    dims = [i for i, placement in enumerate(weight.placements) if not placement.is_replicate()]
    return dims[0] if len(dims) == 1 and weight.placements[dims[0]].is_shard(0) else None


def check_whole(weight: Tensor) -> None:
    """Refuse a weight that is not whole in the forward. Raises ValueError."""
    if weight.ndim != 2:
        raise ValueError(
            "weight: it is flat or empty in the forward, as FSDP1 and ZeRO-3 leave it; use FSDP2 "
            "(torch.distributed.fsdp.fully_shard)"
        )
    if is_sharded(weight):
        raise ValueError(
            "weight: it is a DTensor in the forward, and products need it whole: give fully_shard "
            "the block and not the linears of an MLP, call the model that was given to it, and use "
            "no tensor parallelism"
        )
