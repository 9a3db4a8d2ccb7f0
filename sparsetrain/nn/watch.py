"""The first sparse step, watched: was each converted weight used sparse, and only so?

A layer that is reported sparse trains dense, in silence, where something reads its weight and does
not call it: `F.linear(x, layer.weight)`. Its weight then receives a gradient that no sparse product
gave. So in the first sparse step of a run each layer hands its products an alias of its weight: the
gradient of the alias comes from the products, that of the weight from everything.

Compiled code is not watched: `attach` runs the first sparse step without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparsetrain.autograd import check_transforms

if TYPE_CHECKING:
    from sparsetrain.nn.linear import SparseLinear

_TOLERANCE = 0.05
"""Of the fingerprint of all gradients: sums in another order, of 16-bit gradients too."""


class Watch:
    """What one step shows of a layer. ran: its sparse product, in a forward that trains; ours:
    fingerprint of the gradients that its products gave to the weight; total: of all that the weight
    received; None without."""

    def __init__(self) -> None:
        self._hook: Any = None
        self.forget()

    def forget(self) -> None:
        """Drop what was seen. Gradients that overflowed show nothing."""
        self.ran = self._handed = False
        self.ours: Tensor | None = None
        self.total: Tensor | None = None

    @property
    def trained(self) -> bool:
        """Whether its product ran, and gave the weight a gradient where it takes one."""
        return self.ran and (self.ours is not None or not self._handed)

    @property
    def overflowed(self) -> bool:
        """Whether the weight received numbers that are not finite."""
        return self.total is not None and not bool(self.total.isfinite().all())

    def through(self, weight: Tensor) -> Tensor:
        """The weight for the products of a forward, watched."""
        if not torch.is_grad_enabled():
            self.ran = self.ran or not weight.requires_grad  # of a teacher
            return weight
        self.ran = True
        # The weight of a replica of nn.DataParallel is no leaf: its gradients meet elsewhere.
        if not (weight.is_leaf and weight.requires_grad):
            return weight
        if self._hook is None:
            self._hook = _first_hook(weight, self._all)
        self._handed = True
        alias = weight.view_as(weight)
        alias.register_hook(self._own)
        return alias

    def stop(self) -> None:
        """Watch no more."""
        if self._hook is not None:
            self._hook.remove()
        self._hook = self.ours = self.total = None

    def read_beside(self, others: Iterable[Watch | None] = ()) -> bool:
        """Whether the weight received more than its products gave. others: of the layers that have
        the same weight."""
        if self.total is None or self.ours is None:
            return False
        ours = [w.ours for w in others if w is not None and w.ours is not None]
        rest = self.total - sum(ours, self.ours)
        return bool(rest.norm() > _TOLERANCE * self.total.norm())

    def _own(self, grad: Tensor) -> None:
        self.ours = _sum(self.ours, grad)

    def _all(self, grad: Tensor) -> None:
        self.total = _sum(self.total, grad)

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        return None


def _first_hook(weight: Tensor, hook: Callable[[Tensor], None]) -> Any:
    """Register a hook that sees the gradient before hooks of others change it: PyTorch runs them in
    the order of their dict."""
    handle = weight.register_hook(hook)
    hooks: dict[int, Any] = weight._backward_hooks  # pyright: ignore[reportAssignmentType]
    others = {key: hooks.pop(key) for key in list(hooks) if key != handle.id}
    hooks.update(others)
    return handle


def _sum(known: Tensor | None, grad: Tensor) -> Tensor:
    # A row of numbers instead of a copy of the gradient: no weights that models have cancel in it.
    signs = torch.arange(grad.shape[0], device=grad.device, dtype=torch.float32).cos()
    fingerprint = signs @ grad.detach().float()
    return fingerprint if known is None else known + fingerprint


def watched(layer: SparseLinear) -> Tensor:
    """The weight of a layer for its products; an alias while the layer is watched."""
    if torch.compiler.is_compiling() or layer.watch is None:
        return layer.weight
    check_transforms()  # before a hook, which jvp would not allow
    return layer.watch.through(layer.weight)
