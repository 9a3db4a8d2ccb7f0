"""StopOnNonFinite where weights and gradients lie in shards, on two CPU processes."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from lightning_helpers import tiny_vit
from nn_ranks import free_port, gathered
from nn_sharded_fit import fit

from sparsetrain.errors import NonFiniteError
from sparsetrain.lightning import AdamW, Mix, StopOnNonFinite
from sparsetrain.lightning.fsdp2 import ShardedClassifier
from sparsetrain.nn.sharded import local, reshard

AT = 1  # the step, of six; three are an epoch
LAST = "network.head.bias"


class Breaks(ShardedClassifier):
    """On the second of two ranks something breaks in the second step. what: `loss`, `image`,
    `forward` or `shard`, the part of a gradient that one rank holds."""

    def __init__(self, what: str, fused: bool) -> None:
        super().__init__(tiny_vit(depth=1), AdamW(lr=1e-2), Mix(), 10)
        self.what, self.fused, self.batches = what, fused, 0

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2, fused=self.fused)

    def lr_scheduler_step(self, *_):
        raise AssertionError("there is no scheduler")

    @property
    def now(self) -> str:
        broken = self.trainer.global_step == AT and dist.get_rank() == 1
        return self.what if broken else ""

    def training_step(self, batch, batch_idx):
        self.batches += 1
        if self.trainer.global_step == AT:
            self.weights = [local(p).clone() for p in self.parameters()]
        if self.now == "image":
            batch[0][1, 2] = torch.nan
        network: Any = self.network
        if self.now == "forward":
            network.norm.register_forward_hook(lambda module, x, out: out * torch.inf)
        loss = super().training_step(batch, batch_idx)
        return loss + torch.inf if self.now == "loss" else loss

    def on_after_backward(self):
        network: Any = self.network
        if self.now == "shard":
            local(network.head.bias.grad)[-1] = torch.inf


WHY = {
    "loss": ("loss is inf; in a second forward",) * 2,
    "image": ("loss is nan; in a second forward", "loss is nan; the images already hold"),
    "forward": ("loss is nan; in a second forward", "loss is nan; first in the output of network"),
    "shard": (f"the gradient of {LAST} is not finite (1 parameters in all)",) * 2,
}


def all_ranks_raise_before_the_weights_change(port, folder, what, fused):
    module = Breaks(what, fused)
    with pytest.raises(NonFiniteError) as raised:
        fit(port, folder, module, StopOnNonFinite())
    assert str(raised.value).startswith(f"step {AT}: {WHY[what][dist.get_rank()]}")
    # Read at once, or a batch later with the updates of both left out; on all ranks alike.
    assert gathered(module.batches) == [AT + 1 + fused] * 2
    reshard(module)  # after a forward the root is whole
    for now, before in zip(module.parameters(), module.weights, strict=True):
        assert torch.equal(local(now), before)


@pytest.mark.parametrize("fused", [False, True], ids=["at once", "fused"])
@pytest.mark.parametrize("what", WHY)
def test_all_ranks_raise_before_the_weights_change(ranks, tmp_path, what, fused):
    ranks(all_ranks_raise_before_the_weights_change, free_port(), tmp_path, what, fused)
