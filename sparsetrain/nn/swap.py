"""Turning one module into another on the same parameters."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from functools import cache
from typing import Any, TypeVar

from torch import nn

from sparsetrain.nn.sharded import is_sharded

M = TypeVar("M", bound=nn.Module)
_HOOKS = ("_hooks", "_hooks_with_kwargs", "_hooks_always_called")


def with_class(module: nn.Module, cls: type[M]) -> M:
    """A new module of class `cls` with everything `module` has.

    Parameters, children and hooks are the same objects; the containers that hold them are
    copies, so that adding to one module does not change the other. `module.compile()` is not
    taken over, because it compiled a call of the old module.
    """
    new = cls.__new__(cls)
    for name, value in module.__dict__.items():
        new.__dict__[name] = copy.copy(value) if isinstance(value, (dict, set, list)) else value
    new.__dict__.pop("_compiled_call_impl", None)
    return new


@cache
def subclass_of(sparse: type[M], dense: type[nn.Module]) -> type[M]:
    """`sparse`, with the methods and properties that `dense` has beside: models call them, and ask
    `isinstance(module, dense)`. Its `dense_class` is `dense`."""

    def reduce(module: nn.Module, protocol: Any) -> tuple[Any, ...]:
        # No name of a module is that of this class, so copies and pickles make it again.
        state = nn.Module.__reduce_ex__(module, protocol)[2]
        return _blank, (sparse, dense), state

    members = {"__module__": sparse.__module__, "__reduce_ex__": reduce, "dense_class": dense}
    made: Any = type(sparse.__name__, (sparse, dense), members)
    return made


def _blank(sparse: type[M], dense: type[nn.Module]) -> M:
    cls = subclass_of(sparse, dense)
    return cls.__new__(cls)


def replace_module(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put `new` wherever `model` holds `old`, as `replace_modules` does."""
    replace_modules(model, [(old, new)])


def replace_modules(model: nn.Module, pairs: Iterable[tuple[nn.Module, nn.Module]]) -> None:
    """Replace modules of a model, shared ones included: pairs of an old module and its new one. No
    old module may hold another. Hooks that a new module took over can still be removed by their
    handles.

    Where FSDP2 shards the parameters of `old`, that becomes what `new` is: FSDP2 puts whole weights
    into the module objects that it was given.
    """
    found: dict[nn.Module | None, nn.Module] = {}
    for old, new in pairs:
        for name, hooks in vars(old).items():
            if name.endswith(_HOOKS) and vars(new).get(name) == hooks:
                setattr(new, name, hooks)  # the container that handles refer to
        if any(is_sharded(parameter) for parameter in old.parameters(recurse=False)):
            old.__class__, old.__dict__ = type(new), new.__dict__
        else:
            found[old] = new
    for parent in list(model.modules()):  # one walk: a model may have thousands of experts
        children = parent._modules
        children.update({name: found[child] for name, child in children.items() if child in found})
