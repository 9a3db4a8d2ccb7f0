"""Running calibration data through a model, and what its layers see of it.

A model of any library is taken as it is: a hook before each layer sees its inputs, and an
exception ends a forward as soon as nothing behind is of interest. No activations are kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsetrain.nn import SparseLinear
from sparsetrain.nn.phase import all_dense
from sparsetrain.pruning.statistics import Inputs, Reads

Forward = Callable[[nn.Module, Any], Any]
Layers = Mapping[str, SparseLinear]


class _Enough(Exception):
    """Ends a forward."""


@dataclass(frozen=True)
class Calibration:
    """Batches, and how a model is called with one."""

    batches: Iterable[Any]
    forward: Forward

    def passes(self, model: nn.Module) -> Iterator[None]:
        """Run every batch as far as hooks let it. Raises ValueError without a batch."""
        device = next(model.parameters()).device
        number = 0
        for number, batch in enumerate(self.batches, 1):  # noqa: B007
            with suppress(_Enough):
                self.forward(model, to_device(batch, device))
            yield
        if not number:
            raise ValueError("calibration has no batches: give a list of them, or a DataLoader")

    @property
    def once(self) -> bool:
        """Whether the batches can be gone through once only."""
        return iter(self.batches) is self.batches


def call_model(model: nn.Module, batch: Any) -> Any:
    """`model(**batch)` of a mapping, as tokenizers give it; `model(batch[0])` of a list or tuple,
    as data sets with labels give it; else `model(batch)`."""
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(batch[0] if isinstance(batch, list | tuple) else batch)


def to_device(batch: Any, device: torch.device) -> Any:
    """A batch with its tensors on a device; mappings become dicts."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        return [to_device(value, device) for value in batch]
    return batch


@contextmanager
def calibrating(model: nn.Module) -> Iterator[None]:
    """Evaluation, dense, without gradients; training modes are put back."""
    training = [module for module in model.modules() if module.training]
    with all_dense(model), torch.no_grad():
        model.eval()
        try:
            yield
        finally:
            for module in training:
                module.training = True


@dataclass(frozen=True)
class Order:
    """Layers in the order in which they are first called, those that read one tensor together.

    once: the layers that no forward calls twice.
    """

    groups: tuple[tuple[str, ...], ...]
    once: frozenset[str]


def find_order(model: nn.Module, layers: Layers, calibration: Calibration) -> Order:
    """Run all batches and note who is called when. Raises ValueError where a layer never is."""
    groups: list[list[str]] = []
    calls: Counter[str] = Counter()
    found, again, last = set(), set(), [None]

    def see(name: str, x: Any) -> None:
        calls[name] += 1
        if name not in found:
            found.add(name)
            if groups and x is last[0]:
                groups[-1].append(name)
            else:
                groups.append([name])
        last[0] = x

    with hooked(layers, see):
        for _ in calibration.passes(model):
            again |= {name for name, count in calls.items() if count > 1}
            calls.clear()
            last[0] = None
    check_called(layers, found)
    return Order(tuple(map(tuple, groups)), frozenset(found - again))


def collect(
    model: nn.Module, layers: Layers, calibration: Calibration, reads: Reads, *, stop: bool
) -> dict[str, Inputs]:
    """What a method reads of the inputs of some layers, in one pass.

    stop: end each forward once all of them were called, of those that no forward calls twice.
    Raises ValueError naming the layer whose inputs are not finite, or which is never called.
    """
    inputs = {
        name: Inputs(layer.in_features, reads, layer.weight.device)
        for name, layer in layers.items()
    }
    left = set(layers)

    def add(name: str, x: Tensor) -> None:
        try:
            inputs[name].add(x)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        left.discard(name)
        if stop and not left:
            raise _Enough

    with hooked(layers, add):
        for _ in calibration.passes(model):
            left.update(layers)
    check_called(layers, {name for name, each in inputs.items() if each.tokens})
    return inputs


def check_called(layers: Layers, called: set[str]) -> None:
    """Raise ValueError where layers saw no token."""
    missed = [name for name in layers if name not in called]
    if missed:
        more = f" and {len(missed) - 3} more" if len(missed) > 3 else ""
        raise ValueError(
            f"no calibration batch reaches {', '.join(missed[:3])}{more}: exclude them, or give "
            "batches that do"
        )


@contextmanager
def hooked(layers: Layers, see: Callable[[str, Any], None]) -> Iterator[None]:
    """Call `see(name, input)` before each forward of a layer."""
    with ExitStack() as stack:
        for name, layer in layers.items():

            def before(_: Any, args: Any, kwargs: Any, name: str = name) -> None:
                see(name, args[0] if args else kwargs["input"])

            handle = layer.register_forward_pre_hook(before, with_kwargs=True)
            stack.callback(handle.remove)
        yield
