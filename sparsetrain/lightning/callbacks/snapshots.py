"""A corner of each layer's mask, or map of its blocks, at the start and now, for the report."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from sparsetrain.lightning.flavour import Callback, pl
from sparsetrain.nn import SparseLinear, sparse_linears
from sparsetrain.patterns import Block, Combined, Pattern
from sparsetrain.reference.masks24 import unpack_bits


class MaskSnapshots(Callback):
    """Keep the masks before training, of about `layers` layers spread over the model: as many of
    each kind (fc1, fc2, qkv), the first and the last among them.

    Only the first `side` rows and columns, of values or of blocks. Part of the checkpoint, so that
    a resumed run still has the masks of its first step.
    """

    def __init__(self, layers: int = 6, side: int = 64) -> None:
        self.layers, self.side = layers, side
        self.before: dict[str, Tensor] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.before:
            self.before = self.now(pl_module)

    def now(self, pl_module: pl.LightningModule) -> dict[str, Tensor]:
        """The corners as they are, bool [≤ side, ≤ side], by layer name."""
        layers = sparse_linears(pl_module)
        chosen = self.before or spread(layers, self.layers)
        return {n: _corner(layer, self.side) for n, layer in layers.items() if n in chosen}

    def units(self, pl_module: pl.LightningModule) -> dict[str, str]:
        """What a place of each corner is: "values", or "blocks of 64×64"."""
        layers = sparse_linears(pl_module)
        blocks = {name: _block(layer.pattern) for name, layer in layers.items()}
        return {n: f"blocks of {b.rows}×{b.columns}" if b else "values" for n, b in blocks.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"before": self.before}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.before = state_dict["before"]


def spread(names: Iterable[str], count: int) -> list[str]:
    """About `count` of the names, in their order: as many of each kind, which is what their names
    have in common but for numbers, evenly from its first to its last."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for name in (names := list(names)):
        kinds[".".join("*" if part.isdigit() else part for part in name.split("."))].append(name)
    each = max(1, count // max(1, len(kinds)))
    chosen = set()
    for of_kind in kinds.values():
        last = len(of_kind) - 1
        chosen |= {of_kind[round(i * last / max(1, each - 1))] for i in range(each)}
    return [name for name in names if name in chosen]


def _block(pattern: Pattern) -> Block | None:
    if isinstance(pattern, Combined):
        return pattern.block
    return pattern if isinstance(pattern, Block) else None


@torch.no_grad()
def _corner(layer: SparseLinear, side: int) -> Tensor:
    mask, block = unpack_bits(layer.current_mask(), layer.in_features), _block(layer.pattern)
    shown = mask if block is None else block.units(mask) > 0
    return shown[:side, :side].cpu()
