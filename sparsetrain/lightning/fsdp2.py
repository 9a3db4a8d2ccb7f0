"""`trainer.strategy=fsdp2`: FSDP2 (`fully_shard`) through Lightning's ModelParallelStrategy."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn, optim
from torch.distributed.fsdp import fully_shard

from sparsetrain.lightning.classifier import Classifier
from sparsetrain.lightning.flavour import pl
from sparsetrain.nn.sharded import local

FSDP2 = "fsdp2"

GROUP = 3
"""Blocks that are gathered at once, and whose gradients are summed at once. Fewer groups take less
of the host's time; what the first and the last of them send overlaps with no computation."""


class ShardedClassifier(Classifier):
    """A classifier whose weights, gradients and optimizer states lie in shards, a part on each
    process. A group of blocks is gathered for its forward and stays whole until its backward is
    done: gathering it again took a sixth of the host's time on a CPU (docs/performance.md)."""

    def configure_model(self) -> None:
        mesh: Any = self.device_mesh
        if self._sharded or mesh is None:  # one process validates it whole
            return
        blocks, mesh = _blocks(self.network), mesh["data_parallel"]
        for first in range(0, len(blocks), GROUP):
            group = blocks[first : first + GROUP]
            fully_shard(group, mesh=mesh, reshard_after_forward=False)
        fully_shard(self.network, mesh=mesh)
        self._sharded = True

    _sharded = False

    def configure_optimizers(self) -> Any:
        optimizers, schedulers = super().configure_optimizers()
        for optimizer in optimizers:
            assert type(optimizer) is optim.AdamW, "Classifier makes no other"
            optimizer.__class__ = ShardAdamW
        return optimizers, schedulers

    def to_compile(self) -> list[nn.Module]:
        """The blocks: FSDP2 gathers and frees weights between groups of them, in Python."""
        return _blocks(self.network)


class ShardAdamW(optim.AdamW):
    """AdamW that updates this rank's rows as plain tensors, in the memory of its DTensors.

    Parameters and states stay DTensors, so checkpoints are those of AdamW. PyTorch would look at
    each of them in every step, which took four times as long on a CPU (docs/performance.md).
    """

    def _init_group(self, group: dict[str, Any], *lists: list[Tensor]) -> bool:
        has_complex = super()._init_group(group, *lists)  # pyright: ignore[reportAttributeAccessIssue]
        for tensors in lists:
            tensors[:] = map(local, tensors)
        return has_complex


def fsdp2_strategy(processes: int) -> Any:
    """The strategy. Its checkpoints are those of one process: one file, whole tensors."""
    return pl.strategies.ModelParallelStrategy(  # pyright: ignore[reportAttributeAccessIssue]
        data_parallel_size=processes, tensor_parallel_size=1, save_distributed_checkpoint=False
    )


def _blocks(network: nn.Module) -> list[nn.Module]:
    blocks = getattr(network, "blocks", None)
    if not isinstance(blocks, (nn.Sequential, nn.ModuleList)):
        raise ValueError(
            f"trainer.strategy=fsdp2: {type(network).__name__} has no `blocks` to shard by; give "
            "a ViT, or trainer.strategy=ddp"
        )
    return list(blocks)
