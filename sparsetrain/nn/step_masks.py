"""Masks around an optimizer step: chosen where a layer keeps one, counted where none does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsetrain.nn.linear import SparseLinear
from sparsetrain.nn.look import update_mask
from sparsetrain.nn.shard_masks import masks_of_shards
from sparsetrain.nn.sharded import local
from sparsetrain.ops import flips24


class StepMasks:
    """Which masks the forward of the next step uses.

    Where `SparseLinear.keeps_mask`, the mask is chosen when it is due, and kept. Else packing
    chooses it in each forward, from the weight as it is then, and nothing is done here.

    timer: a context for each choice, for those that measure it.
    counts_flips: whether to count the bits that a step changes in masks that no layer keeps;
        `inspect` has the rate. It costs two choices of all masks in each step that is counted.
    """

    def __init__(self, names: Mapping[nn.Module, str]) -> None:
        self.timer: Callable[[], AbstractContextManager[Any]] = nullcontext
        self.counts_flips = False
        self._names = names
        self._used: dict[SparseLinear, Tensor] = {}  # masks of the step that is counted

    def before_step(self, layers: Iterable[SparseLinear]) -> None:
        """Remember what the forward chose, before the optimizer changes the weights."""
        for layer in layers:
            if not layer.keeps_mask and layer.phase.freezes_next:
                layer.mask, layer.flipped = layer.current_mask(), None
            elif not layer.keeps_mask and self.counts_flips:
                self._used[layer] = layer.current_mask()

    def choose(self, optimizer: Optimizer, layers: list[SparseLinear], first: bool) -> None:
        """Choose what is due for the next forward. layers: of one phase. first: there is nothing to
        count changes against."""
        if not layers:
            return
        phase = layers[0].phase
        due = phase.mask_due and not phase.keeps
        kept = [m for m in layers if m.keeps_mask and (due or m.mask is None)]
        free = [m for m in layers if not m.keeps_mask]
        if not kept and not free:
            return
        if torch.is_anomaly_enabled():
            self._check_numbers([*kept, *free], phase.step)
        for layer in free:
            layer.mask = layer.flipped = None
        if kept or self.counts_flips:
            with self.timer():
                chosen = masks_of_shards(kept)
                for layer in kept:
                    update_mask(optimizer, layer, chosen.get(layer))
                    layer.flipped = None if first else layer.flipped
                for layer in [] if first else [m for m in free if m in self._used]:
                    layer.flipped = flips24(layer.current_mask(), self._used.pop(layer))
        phase.masks_step = phase.step

    def _check_numbers(self, layers: list[SparseLinear], step: int) -> None:
        bad = [self._names[m] for m in layers if bool(local(m.weight.detach()).isnan().any())]
        if bad:
            raise ValueError(f"step {step}: weights of {', '.join(bad)} hold NaN")
