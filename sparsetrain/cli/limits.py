"""A model that a file describes is not larger than the weights in that file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.utils._python_dispatch import TorchDispatchMode

_SMALL = 2**24  # values of a tensor that any model may make


@contextmanager
def no_larger_than(weights: Mapping[str, Any], path: str) -> Iterator[None]:
    """Raise ValueError in one line where a model that is built inside makes more than twice as many
    parameters (a model may replace some that it made) as a checkpoint's `weights` has tensors, or a
    tensor of more values than they have together and than 2²⁴.

    A stored config may ask for any depth and width. Building it would take minutes, or all of the
    memory, before its shapes could be compared.
    """
    sizes = [value.numel() for value in weights.values() if isinstance(value, Tensor)]
    count = 0

    def register(module: nn.Module, name: str, parameter: Any) -> None:
        nonlocal count
        count += 1
        if count > 2 * len(sizes):
            raise _of_another_model(path, f"more parameters than the {len(sizes)} tensors")

    hook = register_module_parameter_registration_hook(register)
    try:
        with _Refuse(max(sum(sizes), _SMALL), path):
            yield
    finally:
        hook.remove()


class _Refuse(TorchDispatchMode):
    """Refuses tensors of more than `most` values, before and after an op makes them."""

    def __init__(self, most: int, path: str) -> None:
        super().__init__()
        self.most, self.path = most, path

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        size = args[0] if args and isinstance(args[0], list | tuple) else ()
        if all(isinstance(length, int) for length in size):
            self._check(math.prod(size))
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self._check(result.numel())
        return result

    def _check(self, values: int) -> None:
        if values > self.most:
            raise _of_another_model(self.path, f"a tensor of {values:,} values, and no such one is")


def _of_another_model(path: str, what: str) -> ValueError:
    return ValueError(
        f"checkpoint={path} is of another model: the model of its config has {what} in the file"
    )
