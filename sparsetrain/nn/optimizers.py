"""Which optimizers really step, and which layers they hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from sparsetrain.nn.linear import SparseLinear


def stepping(optimizers: Any) -> list[Optimizer]:
    """The optimizers inside wrappers (Lookahead, SAM, Accelerate's, Lightning's), each once.

    A wrapper's own hooks do not run, or run once more than its inner optimizer steps. Raises
    ValueError for what holds no optimizer whose step can be hooked.
    """
    found: list[Optimizer] = []
    for optimizer in optimizers if isinstance(optimizers, (list, tuple)) else [optimizers]:
        for inner in _innermost(optimizer, set()):
            if inner not in found:
                found.append(inner)
    return found


def held_by(optimizer: Optimizer) -> set[int]:
    """The ids of the parameters in its groups."""
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


def trains(layer: nn.Module) -> Tensor | None:
    """What says which optimizer a layer is of: its weight; where that is computed, and of an MLP,
    whose children may be adapted and frozen since, the first parameter that trains."""
    weight = layer._parameters.get("weight")
    trained = [weight] if weight is not None else [p for p in layer.parameters() if p.requires_grad]
    return trained[0] if trained else None


def learns(layer: nn.Module) -> bool:
    """Whether that takes gradients."""
    weight = trains(layer)
    return weight is not None and weight.requires_grad


def refuse_shared(
    layers: Iterable[nn.Module], optimizers: Iterable[Optimizer], names: Mapping[nn.Module, str]
) -> None:
    """Refuse a weight that two optimizers hold: whose steps its phase counts is not known."""
    held = [held_by(optimizer) for optimizer in optimizers]
    for layer in layers:
        if sum(id(trains(layer)) in ids for ids in held) > 1:
            raise ValueError(
                f"optimizer: two that were given hold the weight of {names[layer]}: give "
                "the one that steps it now, and attach the other when it takes over"
            )


def refuse_unfit(layers: Iterable[nn.Module], optimizers: Iterable[Optimizer]) -> None:
    """Refuse an optimizer that a method of the weights that it holds cannot train with."""
    linears = [layer for layer in layers if isinstance(layer, SparseLinear)]
    for optimizer in optimizers:
        held = held_by(optimizer)
        for method in {layer.method for layer in linears if id(trains(layer)) in held}:
            method.refuse(optimizer)


def skipped(optimizer: Optimizer) -> bool:
    """Whether a GradScaler had the optimizer skip this step in its own kernel. Waits for the device
    as a GradScaler itself does for other optimizers; without one it does not."""
    found_inf = getattr(optimizer, "found_inf", None)
    scaled = getattr(optimizer, "grad_scale", None) is not None
    return scaled and found_inf is not None and bool(found_inf)


def _innermost(optimizer: Any, seen: set[int]) -> Iterable[Optimizer]:
    seen.add(id(optimizer))
    inner = [o for o in _attributes(optimizer) if id(o) not in seen]
    if inner:
        for other in inner:
            yield from _innermost(other, seen)
        return
    if not isinstance(optimizer, Optimizer):
        raise ValueError(
            f"optimizer={type(optimizer).__name__} is no torch.optim.Optimizer and holds none: "
            "give the one that steps the weights"
        )
    # Set by Optimizer.__init__, without which hooks are never called.
    if not getattr(type(optimizer).step, "hooked", False):
        raise ValueError(
            f"optimizer={type(optimizer).__name__} does not run the hooks of its step: its "
            "__init__ must call torch.optim.Optimizer.__init__; give the optimizer inside it"
        )
    yield optimizer


def _attributes(optimizer: Any) -> Iterable[Optimizer]:
    if isinstance(optimizer, nn.Module):
        return
    for value in getattr(optimizer, "__dict__", {}).values():
        values = value.values() if isinstance(value, dict) else value
        several = values if isinstance(value, (list, tuple, dict)) else [value]
        yield from (other for other in several if isinstance(other, Optimizer))
