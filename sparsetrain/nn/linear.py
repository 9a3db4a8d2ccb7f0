"""A linear layer whose weight is 2:4 in the products."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

from sparsetrain.autograd import Engine, Packed, compute_dtype
from sparsetrain.methods import SRSTE, SSTE, WeightMethod
from sparsetrain.nn.packing import PackingLayer
from sparsetrain.nn.sharded import whole
from sparsetrain.nn.swap import with_class
from sparsetrain.ops import flips24, select24
from sparsetrain.reference.soft_threshold24 import soft_scale24


class SparseLinear(PackingLayer, nn.Linear):
    """`nn.Linear` that multiplies by a 2:4 version of its weight.

    The parameters are the dense layer's own, under the same names; what is sparse is made from
    them in the forward. Made by `from_dense`, undone by `to_dense`.

    method: how the weight becomes 2:4 and what gradient it gets.
    engine: `masked`, `native` or `aten`, see `autograd.operands`.
    sparse: False runs the dense layer (dense phases of a schedule).
    mask: bits [O, ceil(I/8)], or None to choose from the weight in every forward. Set by
        `update_mask`.
    scale: float32 [1], β of S-STE, else None.
    flipped: mask bits that changed at the last `update_mask` (int64 scalar), or None.

    mask, scale and flipped follow the module to its device but are no buffers: DDP would
    broadcast them in every forward, weight averaging would average them, and the state dict
    must stay the dense one. `phase.sparse_state` saves them.
    """

    method: WeightMethod
    engine: Engine
    decay_attached: bool
    mask: Tensor | None
    scale: Tensor | None
    flipped: Tensor | None

    @classmethod
    def from_dense(cls, dense: nn.Linear, method: WeightMethod, engine: Engine) -> SparseLinear:
        """The sparse layer on the parameters (shared), hooks and mode of `dense`."""
        layer = with_class(dense, cls)
        layer.method, layer.engine, layer.sparse = method, engine, True
        layer.decay_attached, layer.flipped = False, None
        layer.mask = layer.scale = layer.held = layer.memory = None
        layer.held_of = layer.held_state = layer.memory_for = ()
        layer.start()
        return layer

    def to_dense(self) -> nn.Linear:
        """The dense layer on the same parameters."""
        layer = with_class(self, nn.Linear)
        for name in (*SparseLinear.__annotations__, *PackingLayer.__annotations__):
            del layer.__dict__[name]
        return layer

    def forward(self, input: Tensor) -> Tensor:
        if not self.sparse:
            return F.linear(input, self.weight, self.bias)
        self.expect_decay()
        packed = self.packed(compute_dtype(input, self.weight))
        return self.method.linear(input, self.weight, self.bias, packed, self.engine)

    def weights(self) -> tuple[Tensor, ...]:
        return (self.weight,)

    def masks(self) -> tuple[Tensor, ...]:
        return () if self.mask is None else (self.mask,)

    def how(self) -> tuple[Any, ...]:
        return self.method, self.engine

    def pack(self, dtype: torch.dtype, into: Packed | None = None) -> Packed:
        return self.method.pack(self.weight, self.mask, self.scale, dtype, self.engine, into)

    @torch.no_grad()
    def start(self) -> None:
        """What a method fixes when training starts to be sparse: β of S-STE."""
        if isinstance(self.method, SSTE) and not self.weight.is_meta:
            with torch.inference_mode(False), torch.no_grad():
                self.scale = soft_scale24(whole(self.weight))

    @torch.no_grad()
    def update_mask(self) -> None:
        """Choose the mask from the weight as it is now, and count what changed."""
        # Training changes it in place, which it may not with one made in inference mode.
        with torch.inference_mode(False), torch.no_grad():
            mask = select24(whole(self.weight), self.method.rule)
            if self.mask is None:
                self.mask = mask
            else:
                self.flipped = flips24(mask, self.mask)
                self.mask.copy_(mask)

    def current_mask(self) -> Tensor:
        """The mask the next forward uses (or would use, in a dense phase).

        Chosen from the master weight, where `update_mask` chose none: FSDP2 with a param_dtype
        gives the forward a rounded weight, which may hold other ties.
        """
        if self.mask is not None:
            return self.mask
        return select24(whole(self.weight), self.method.rule)

    @torch.no_grad()
    def used_weight(self) -> Tensor:
        """[O, I] in the weight's dtype: what the products multiply by, zeros included."""
        if not self.sparse:
            return whole(self.weight)
        return self.method.weight24(whole(self.weight), self.current_mask(), self.scale)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        for name in ("mask", "scale", "flipped"):
            value = getattr(self, name)
            # To the device only: β stays the float32 number it is in a bfloat16 model.
            setattr(self, name, None if value is None else value.to(fn(value).device))
        return self

    def extra_repr(self) -> str:
        state = "" if self.sparse else ", now dense"
        return f"{super().extra_repr()}, {self.method.describe()}, engine={self.engine}{state}"

    def expect_decay(self) -> None:
        """Warn where SR-STE trains without the part that lives in the optimizer step."""
        method = self.method
        if torch.compiler.is_compiling() or self.decay_attached or not self.training:
            return
        if isinstance(method, SRSTE) and method.decay > 0 and torch.is_grad_enabled():
            warnings.warn(
                "SR-STE's decay is not attached to an optimizer, so pruned weights will not "
                "shrink: call sparsetrain.decay_pruned_weights(model, optimizer)",
                stacklevel=3,
            )
