"""`trainer.strategy=ddp`, which `auto` is with several processes: Lightning's, waiting for less."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sparsetrain.lightning.flavour import pl

strategies: Any = pl.strategies  # pyright: ignore[reportAttributeAccessIssue]

BUCKET_MB = 100
"""Gradients summed at once. With PyTorch's 25 MB a step of ViT-L took 100.3 ms on two H200s, with
100 MB 96.9, on one of them 97.2 (docs/performance.md)."""


class Ddp(strategies.DDPStrategy):
    """Lightning's strategy; the model is wrapped on the stream that trains it.

    Lightning wraps it on another one, as capturing whole steps in CUDA graphs needs: gradients then
    wait for each other's streams, and PyTorch warns.
    """

    def _setup_model(self, model: nn.Module) -> DistributedDataParallel:
        devices = self.determine_ddp_device_ids()
        return DistributedDataParallel(model, device_ids=devices, **self._ddp_kwargs)


def register_ddp() -> None:
    """Have Lightning take `Ddp` for `ddp` and `auto`."""
    strategies.StrategyRegistry.register(
        "ddp", Ddp, override=True, bucket_cap_mb=BUCKET_MB, gradient_as_bucket_view=True
    )
