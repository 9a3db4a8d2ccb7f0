"""What a sparse layer multiplies by: packed for one forward, or held for many."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from typing_extensions import Self

from sparsetrain.autograd import Packed


class PackingLayer(nn.Module):
    """A layer that packs its weights before it multiplies by them.

    held: the weights as `hold` packed them for the forwards to come; None where each packs its
        own. It follows no device: `to()` lets go of it.
    """

    sparse: bool
    held: Packed | None
    held_version: int  # of the weights, when they were packed; compiled code does not look at it

    def weights(self) -> tuple[Tensor, ...]:
        """The weights that are packed."""
        raise NotImplementedError

    def pack(self, dtype: torch.dtype) -> Packed:
        """The weights as they are now, for products in `dtype`."""
        raise NotImplementedError

    @torch.no_grad()
    def hold(self, dtype: torch.dtype) -> None:
        """Pack for all forwards in `dtype` until the next call. A dense phase holds nothing."""
        # Training saves for the backward what may have been packed for a validation.
        with torch.inference_mode(False):
            self.held = tuple(self.pack(dtype)) if self.sparse else None
        self.held_version = self._versions()

    def packed(self, dtype: torch.dtype) -> Packed:
        """What is held, where it is in `dtype`, else packed now. Raises ValueError where the
        weights changed since, but not in compiled code."""
        if self.held is None or self.held[0].dtype != dtype:
            return self.pack(dtype)
        if not torch.compiler.is_compiling() and self.held_version != self._versions():
            raise ValueError(
                "weight: it changed after it was packed, and the products would use the old one: "
                "call sparsetrain.pack_weights(model) after each change, as an optimizer step is"
            )
        return self.held

    def _versions(self) -> int:
        return sum(weight._version for weight in self.weights())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self.held = None
        return self
