"""What a sparse layer multiplies by: packed for one forward, or held for many."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version
from torch.optim.optimizer import register_optimizer_step_post_hook
from typing_extensions import Self

from sparsetrain.autograd import Packed
from sparsetrain.nn.sharded import is_sharded


class PackingLayer(nn.Module):
    """A layer that packs its weights before it multiplies by them.

    held: the weights as `hold` packed them for the forwards to come; None where each packs its
        own. It follows no device: `to()` lets go of it.
    held_of, held_state: the weights and masks, and how often they had changed. A forward that
        finds it otherwise packs for itself; compiled code does not look.
    memory: where `hold` packed last, and packs again: a CUDA graph finds weights where they were.
    memory_for: what it has the forms of.
    """

    sparse: bool
    held: Packed | None
    held_of: tuple[Tensor, ...]
    held_state: tuple[int, ...]
    memory: Packed | None
    memory_for: tuple[Any, ...]

    def weights(self) -> tuple[Tensor, ...]:
        """The weights that are packed."""
        raise NotImplementedError

    def masks(self) -> tuple[Tensor, ...]:
        """The masks under which they are packed, where they are kept."""
        raise NotImplementedError

    def how(self) -> tuple[Any, ...]:
        """What the forms that are packed depend on, apart from the weights."""
        raise NotImplementedError

    def pack(self, dtype: torch.dtype, into: Packed | None = None) -> Packed:
        """The weights as they are now, for products in `dtype`. into: what this returned before
        in that dtype, to write into where it can."""
        raise NotImplementedError

    def hold(self, dtype: torch.dtype) -> None:
        """Pack for all forwards in `dtype` until the next call. A dense phase holds nothing, nor do
        sharded weights, which are whole in a forward alone.

        What was held before is written over: a backward that still wants it raises RuntimeError.
        """
        weights = self.weights()
        holds = self.sparse and all(w.ndim == 2 and not is_sharded(w) for w in weights)
        forms = (dtype, *((w.shape, w.device) for w in weights), *self.how())
        if not holds or forms != self.memory_for:
            self.memory = None
        self.release(keep_memory=True)  # so that nothing uses what an interruption leaves half done
        # Training saves for the backward what may have been packed for a validation.
        with torch.inference_mode(False), torch.no_grad():
            if self.memory is not None:
                _write(self, dtype, self.memory)
            elif holds:
                self.memory, self.memory_for = _own(self.pack(dtype), weights), forms
        self.held, self.held_state = self.memory, self._state()
        self.held_of = () if self.held is None else self._sources()

    def release(self, keep_memory: bool = False) -> None:
        """Hold nothing. keep_memory: for the next `hold`."""
        self.held, self.held_of = None, ()
        if not keep_memory:
            self.memory = None

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
        stale = not torch.compiler.is_compiling() and not self._is_as_held()
        return self.pack(dtype) if stale else held

    def _sources(self) -> tuple[Tensor, ...]:
        return *self.weights(), *self.masks()

    def _state(self) -> tuple[int, ...]:
        versions = (0 if t.is_inference() else t._version for t in self._sources())
        # Fused optimizers do not count their changes as versions.
        return *_optimizer_steps(), *versions

    def _is_as_held(self) -> bool:
        # The tensors themselves: an id may be that of a newer one.
        both = zip(self._sources(), self.held_of, strict=False)
        return self.held_state == self._state() and all(now is then for now, then in both)

    def __getstate__(self) -> dict[str, Any]:
        # A copy has weights of its own, which compiled code would not see change.
        return self.__dict__ | {"held": None, "held_of": (), "memory": None}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self.release()
        return self


def _own(packed: Packed, weights: tuple[Tensor, ...]) -> Packed:
    """In memory that is no weight's."""
    theirs = {weight.data_ptr() for weight in weights}
    return tuple(t.clone() if t is not None and t.data_ptr() in theirs else t for t in packed)


def _write(layer: PackingLayer, dtype: torch.dtype, memory: Packed) -> None:
    """Pack to memory: what packing did not write there is copied."""
    # Kernels do not tell autograd, and after an interruption nobody would.
    increment_version([tensor for tensor in memory if tensor is not None])
    for now, there in zip(layer.pack(dtype, memory), memory, strict=True):
        if there is not None and now is not there:
            there.copy_(now)


@cache
def _optimizer_steps() -> list[int]:
    """One number: optimizer steps in this process since the first call."""
    steps = [0]

    def count(*call: Any) -> None:
        steps[0] += 1

    register_optimizer_step_post_hook(count)
    return steps
