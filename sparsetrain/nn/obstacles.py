"""Why a linear layer cannot have sparse weights, where that is known beforehand."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sparsetrain.nn.sharded import is_sharded
from sparsetrain.nn.sparsity import Part
from sparsetrain.patterns import NM

_READ = re.compile(  # to ask a weight for its type, dtype or shape does not read it
    r"(?<!isinstance\()\bself\.([\w.]+?)\.weight\b(?!(?:\.data|\.detach\(\))*"
    r"\.(?:dtype|device|shape|size|requires_grad|is_cuda|ndim|numel)\b)"
)
_CALL = re.compile(r"\bself\.(\w+)\(")
_FACTOR = re.compile(r"\blora_(a|b|up|down)\b", re.IGNORECASE)  # torchtune's and kohya's names
_LEAST_FEATURES = 4  # of the input of an MLP; coordinates have two or three


def weight_obstacle(model: nn.Module, name: str, linear: nn.Linear, part: Part) -> str | None:
    """Why the weight of a linear layer cannot be sparse as `part` says; None if it can."""
    parent = model.get_submodule(name.rpartition(".")[0])
    features = {"in_features": linear.in_features}
    # The MVUE op wants whole groups of features too.
    both = isinstance(part.pattern, NM) and part.selection.both
    if both or (part.weight is not None and part.weight.mvue):
        features["out_features"] = linear.out_features
    odd = [f"{k}={v}" for k, v in features.items() if v % 4]
    if not name:
        return "it is the model itself: wrap it in another module"
    if bypass := _bypass(model, name):
        return bypass
    if "weight" not in linear._parameters:
        return "its weight is computed by a hook (weight_norm, spectral_norm, pruning)"
    if is_lazy(linear.weight):
        return "its weight has no shape yet: run a forward before"
    if changed := _not_plain(linear):
        return changed
    if type(parent).__name__ == "OptimizedModule":
        return "torch.compile took it by itself: call sparsify before that"
    if "forward" in linear.__dict__:
        return "its forward was replaced on the instance (torch.compile, accelerate or a patch)"
    if _is_adapter(model, name):
        return "it is a factor of an adapter"
    if _takes_coordinates(parent):
        return "its MLP takes coordinates (a position bias)"
    if odd:
        return f"{', '.join(odd)} is not a multiple of 4"
    if misfit := part.pattern.misfit(linear.out_features, linear.in_features):
        return misfit
    if not linear.weight.is_floating_point():
        return f"its weight is {linear.weight.dtype}"
    return None


def tied_weights(model: nn.Module) -> dict[str, list[str]]:
    """For each module with a `weight` that others share, whole or in part, as parameters or
    buffers, their names."""
    spans: dict[int, list[tuple[int, int, str]]] = {}
    for name, module in model.named_modules():
        for key, tensor in {**module._parameters, **module._buffers}.items():
            if tensor is not None and tensor.layout == torch.strided and not is_lazy(tensor):
                owner = name if key == "weight" else f"{name}.{key}".lstrip(".")
                start, stop, storage = _span(tensor)
                spans.setdefault(storage, []).append((start, stop, owner))
    tied: dict[str, list[str]] = {}
    for users in spans.values():
        for start, stop, owner in users:
            others = [o for b, e, o in users if o != owner and b < stop and start < e]
            if others:
                tied[owner] = others
    return tied


def same_view(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors that share memory are the same numbers in the same places: a mask of one
    is then a mask of the other."""
    alike = a.shape == b.shape and a.stride() == b.stride()
    return a is b or (alike and _span(a) == _span(b))


def _span(parameter: Tensor) -> tuple[int, int, int]:
    """Its first element, the one past its last, and the storage they lie in; of what has no memory
    here, or a shard, itself alone."""
    if parameter.is_meta or parameter.numel() == 0 or is_sharded(parameter):
        return 0, 1, -id(parameter)
    last = sum((n - 1) * s for n, s in zip(parameter.shape, parameter.stride(), strict=True))
    start = int(parameter.storage_offset())
    return start, start + int(last) + 1, parameter.untyped_storage().data_ptr()


class _Plain(nn.Linear):
    """What a class that is only made in another way has, by any version of Python."""

    _: int
    __constants__ = nn.Linear.__constants__

    def __init__(self) -> None:
        raise NotImplementedError

    def extra_repr(self) -> str:
        raise NotImplementedError


def _not_plain(linear: nn.Linear) -> str | None:
    """What its class or the layer adds to nn.Linear that a sparse layer would not do."""
    kind = type(linear)
    classes = [cls for cls in kind.__mro__ if cls not in nn.Linear.__mro__]
    added = {name for cls in classes for name in vars(cls)} - set(vars(_Plain))
    added |= {*linear._parameters, *linear._buffers, *linear._modules} - {"weight", "bias"}
    if not added:
        return None
    what = "a forward of its own" if "forward" in added else ", ".join(sorted(added)[:3])
    called = kind.__name__ if kind.__name__ != "Linear" else f"{kind.__module__}.Linear"
    return f"{called} is not a plain nn.Linear: it has {what}"


def _bypass(model: nn.Module, name: str) -> str | None:
    """That a module uses the weight of a linear below it without calling it."""
    for ancestor, path in _ancestors(model, name):
        reads = f"{type(ancestor).__name__} reads its weight without calling it"
        if isinstance(ancestor, nn.TransformerEncoderLayer):
            if path in ("linear1", "linear2"):
                fused = ancestor.self_attn.batch_first and ancestor.activation_relu_or_gelu
                return f"{reads} in eval mode (batch_first=True)" if fused else None
        elif isinstance(ancestor, nn.MultiheadAttention):
            return reads
        elif path == "qkv" and getattr(ancestor, "qkv_bias_separate", False):
            continue  # timm's, which then calls it
        elif path in _read_paths(type(ancestor)):
            return reads
    return None


@cache
def _read_paths(kind: type[nn.Module]) -> set[str]:
    """Children whose weights the forward of a class reads, by its source and that of the methods of
    the class that it calls: `self.qkv.weight`."""
    found, seen, calls = set[str](), set[str](), ["forward"]
    while calls:
        name = calls.pop()
        source = "" if name in seen else _source(getattr(kind, name, None))
        seen.add(name)
        found |= set(_READ.findall(source))
        calls += _CALL.findall(source)
    return found


def _source(function: Any) -> str:
    """The source of a function, with its strings emptied. Empty where it cannot be read: then the
    first sparse step tells which weights are read."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return ""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""  # it may tell of weights
    return ast.unparse(tree)


def _ancestors(model: nn.Module, name: str) -> Iterator[tuple[nn.Module, str]]:
    """The modules above a layer, nearest first, and its name in each."""
    parts = name.split(".")
    for depth in range(len(parts) - 1, -1, -1):
        yield model.get_submodule(".".join(parts[:depth])), ".".join(parts[depth:])


def _is_adapter(model: nn.Module, name: str) -> bool:
    """Whether it stands beside a `base_layer`, as LoRA's factors do, or is called as they are."""
    if _FACTOR.search(name):
        return True
    return any(
        "base_layer" in ancestor._modules and path.split(".")[0] != "base_layer"
        for ancestor, path in _ancestors(model, name)
    )


def _takes_coordinates(parent: nn.Module) -> bool:
    first = next((m for m in parent.children() if isinstance(m, nn.Linear)), None)
    return first is not None and 0 < first.in_features < _LEAST_FEATURES  # 0 of a lazy one
