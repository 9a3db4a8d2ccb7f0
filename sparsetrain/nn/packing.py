"""What a sparse layer multiplies by: packed for one forward, or held for many."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from typing_extensions import Self

from sparsetrain.autograd import Packed
from sparsetrain.nn.sharded import is_sharded


class PackingLayer(nn.Module):
    """A layer that packs its weights before it multiplies by them.

    held: the weights as `hold` packed them for the forwards to come; None where each packs its
        own. It follows no device: `to()` lets go of it.
    held_state: what the weights were then. A forward that finds them changed packs for itself;
        compiled code does not look.
    """

    sparse: bool
    held: Packed | None
    held_state: tuple[int, ...]

    def weights(self) -> tuple[Tensor, ...]:
        """The weights that are packed."""
        raise NotImplementedError

    def masks(self) -> tuple[Tensor, ...]:
        """The masks under which they are packed, where they are kept."""
        raise NotImplementedError

    def pack(self, dtype: torch.dtype) -> Packed:
        """The weights as they are now, for products in `dtype`."""
        raise NotImplementedError

    def hold(self, dtype: torch.dtype) -> None:
        """Pack for all forwards in `dtype` until the next call. A dense phase holds nothing, nor do
        sharded weights, which are whole in a forward alone."""
        weights = self.weights()
        holds = self.sparse and all(w.ndim == 2 and not is_sharded(w) for w in weights)
        # Training saves for the backward what may have been packed for a validation.
        with torch.inference_mode(False), torch.no_grad():
            self.held = tuple(self.pack(dtype)) if holds else None
        self.held_state = self._state()

    def packed(self, dtype: torch.dtype) -> Packed:
        """What is held, where it is in `dtype` and of the weights as they are, else packed now.
        Raises ValueError where the weights are not whole; compiled code does not look."""
        if any(weight.ndim != 2 for weight in self.weights()):
            raise ValueError(
                "weight: it is flat or empty in the forward, as FSDP1 and ZeRO-3 leave it; use "
                "FSDP2 (torch.distributed.fsdp.fully_shard)"
            )
        if any(map(is_sharded, self.weights())):
            raise ValueError(
                "weight: it is a DTensor in the forward, and products need it whole: give "
                "fully_shard the block and not the linears of an MLP, call the model that was "
                "given to it, and use no tensor parallelism"
            )
        held = self.held
        if held is None or held[0].dtype != dtype:
            return self.pack(dtype)
        stale = not torch.compiler.is_compiling() and self.held_state != self._state()
        return self.pack(dtype) if stale else held

    def _state(self) -> tuple[int, ...]:
        state = _optimizer_steps().copy()
        # Fused optimizers do not count their changes as versions.
        for tensor in (*self.weights(), *self.masks()):
            state += [id(tensor), 0 if tensor.is_inference() else tensor._version]
        return tuple(state)

    def __getstate__(self) -> dict[str, Any]:
        # A copy has weights of its own, which compiled code would not see change.
        return self.__dict__ | {"held": None}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self.held = None
        return self


@cache
def _optimizer_steps() -> list[int]:
    """One number: optimizer steps in this process since the first call."""
    steps = [0]

    def count(*call: Any) -> None:
        steps[0] += 1

    register_optimizer_step_post_hook(count)
    return steps
