"""`trainer.strategy=fsdp2`: FSDP2 (`fully_shard`) through Lightning's ModelParallelStrategy."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.distributed.fsdp import fully_shard

from sparsetrain.lightning.classifier import Classifier
from sparsetrain.lightning.flavour import pl

FSDP2 = "fsdp2"


class ShardedClassifier(Classifier):
    """A classifier whose weights, gradients and optimizer states lie in shards, a part on each
    process: each block of the network is gathered for its own forward and backward alone."""

    def configure_model(self) -> None:
        mesh: Any = self.device_mesh
        if self._sharded or mesh is None:  # one process validates it whole
            return
        for block in (*_blocks(self.network), self.network):
            fully_shard(block, mesh=mesh["data_parallel"])
        self._sharded = True

    _sharded = False

    def to_compile(self) -> list[nn.Module]:
        """The blocks: FSDP2 gathers and frees weights between them, in Python."""
        return _blocks(self.network)


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
