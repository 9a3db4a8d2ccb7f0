"""Where `sparsify` put its layers, to tell later which of them something replaced."""

from __future__ import annotations

from collections.abc import Iterable
from weakref import WeakSet, ref

from torch import nn

from sparsetrain.nn.linear import SparseLinear


class Made:
    """A sparse linear layer, by its name in the model that was converted and by its parent.

    known: the linear layers that were dense then: moving one is no replacement.
    """

    def __init__(self, model: nn.Module, name: str, known: WeakSet[nn.Module]) -> None:
        parent, _, self.child = name.rpartition(".")
        self.name, self._parent, self._known = name, ref(model.get_submodule(parent)), known

    def replaced(self, modules: set[nn.Module]) -> bool:
        """Whether it is a new dense layer now. modules: those of a model; elsewhere it is not."""
        parent = self._parent()
        if parent is None or parent not in modules:
            return False
        now = parent._modules.get(self.child)
        return type(now) is nn.Linear and now not in self._known

    def leave(self) -> None:
        """What is there now is meant to be there."""
        parent = self._parent()
        now = None if parent is None else parent._modules.get(self.child)
        if now is not None:
            self._known.add(now)


def places(model: nn.Module, names: Iterable[str]) -> tuple[Made, ...]:
    """Of the sparse layers of these names."""
    known: WeakSet[nn.Module] = WeakSet(
        m for m in model.modules() if isinstance(m, nn.Linear) and not isinstance(m, SparseLinear)
    )
    return tuple(Made(model, name, known) for name in names)
