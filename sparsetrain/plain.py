"""Values from a file as exactly dicts, lists, tensors, numbers and text, and nothing else.

`torch.load(weights_only=True)` can give dicts with attributes of their own, whose `items` says
something else than they hold, and a few lists that hold each other so often that nothing which
prints or walks them ends. Whatever comes from a file is copied here before anything looks at it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

MOST = 1_000_000
"""Values of a checkpoint, each counted as often as it is held."""

DEEPEST = 64

_LEAVES = (str, int, float, bool, type(None), bytes, torch.dtype, torch.device, torch.Size)


def plain(values: Any, where: str) -> Any:
    """A copy of values, tensors shared. Raises ValueError in one line for any other type, and for
    more or deeper nested values than any checkpoint has. where: what they were read from."""
    return _Copy(where).of(values, "", 0)


class _Copy:
    def __init__(self, where: str) -> None:
        self.where, self.count = where, 0

    def of(self, value: Any, path: str, depth: int) -> Any:
        self.count += 1
        if self.count > MOST:
            raise ValueError(f"{self.where} holds more than {MOST:,} values: none of ours does")
        if depth > DEEPEST:
            raise ValueError(f"{self.where}: {path[:60]}… is nested more than {DEEPEST} deep")
        kind = type(value)
        if kind in _LEAVES:
            return value
        if kind in (Tensor, nn.Parameter):
            return Tensor.detach(value)
        if kind in (dict, OrderedDict):
            return self._dict(value, path, depth)
        if kind in (list, tuple, set):
            held = enumerate(kind.__iter__(value))
            return kind(self.of(inside, f"{path}[{i}]", depth + 1) for i, inside in held)
        raise ValueError(
            f"{self.where}: {path or 'it'} is a {kind.__name__}: a file of ours holds tensors, "
            "dicts, lists, numbers and text"
        )

    def _dict(self, value: dict[Any, Any], path: str, depth: int) -> dict[Any, Any]:
        copy = type(value)()
        for key, inside in dict.items(value):
            if type(key) not in (str, int, float, bool, type(None)):
                raise ValueError(f"{self.where}: {path or 'it'} has a key that is no name")
            copy[key] = self.of(inside, f"{path}.{key}" if path else str(key)[:60], depth + 1)
        if isinstance(value, OrderedDict) and "_metadata" in vars(value):
            # Versions of modules, which a state dict carries.
            versions = self.of(vars(value)["_metadata"], f"{path}._metadata", depth + 1)
            vars(copy)["_metadata"] = versions
        return copy
