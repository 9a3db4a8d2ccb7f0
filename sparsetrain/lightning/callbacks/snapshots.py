"""A corner of each layer's mask at the start and now, for the report."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsetrain.lightning.flavour import Callback, pl
from sparsetrain.nn import sparse_linears
from sparsetrain.reference.masks24 import unpack_bits


class MaskSnapshots(Callback):
    """Keep the masks before training, of `layers` layers spread over the model.

    Only the first `side` rows and columns. Part of the checkpoint, so that a resumed run still
    has the masks of its first step.
    """

    def __init__(self, layers: int = 6, side: int = 64) -> None:
        self.layers, self.side = layers, side
        self.before: dict[str, Tensor] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.before:
            self.before = self.now(pl_module)

    def now(self, pl_module: pl.LightningModule) -> dict[str, Tensor]:
        """The corners as they are, bool [≤ side, ≤ side], by layer name."""
        layers = list(sparse_linears(pl_module).items())
        stride = max(1, (len(layers) + self.layers - 1) // self.layers)
        return {name: _corner(layer, self.side) for name, layer in layers[::stride]}

    def state_dict(self) -> dict[str, Any]:
        return {"before": self.before}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.before = state_dict["before"]


@torch.no_grad()
def _corner(layer: Any, side: int) -> Tensor:
    mask = unpack_bits(layer.current_mask()[:side], layer.in_features)
    return mask[:, :side].cpu()
