"""Which units of a model may change places, by the names of children that libraries use.

MLPs of one or two layers before an activation, rows of layers in nn.Sequential, and heads of
attention. Names say where to look;
`tried` says whether it is so.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from torch import nn

from sparsetrain.nn.obstacles import tied_weights
from sparsetrain.permutation.units import Place, Units, UnitSet

_MLPS = (
    (("fc1_g", "fc1_x"), "fc2"),  # timm SwiGLU
    (("fc1",), "fc2"),  # timm, CLIP, OPT
    (("gate_proj", "up_proj"), "down_proj"),  # Llama, Mistral, Qwen, Gemma
    (("gate_up_proj",), "down_proj"),  # Phi-3
    (("intermediate.dense",), "output.dense"),  # BERT
    (("c_fc",), "c_proj"),  # GPT-2
    (("dense_h_to_4h",), "dense_4h_to_h"),  # GPT-NeoX, Falcon
    (("wi_0", "wi_1"), "wo"),  # T5 v1.1
    (("wi",), "wo"),  # T5
    (("w1", "w3"), "w2"),  # Llama's own code
    (("linear1",), "linear2"),  # torch.nn
    (("lin1",), "lin2"),  # DistilBERT
)
_FUSED = (("qkv", "proj"), ("c_attn", "c_proj"))  # timm; GPT-2: rows are [3, heads, channels]
_APART = (
    ("self.query", "self.key", "self.value", "output.dense"),  # BERT
    ("q_proj", "k_proj", "v_proj", "o_proj"),  # Llama
    ("q_proj", "k_proj", "v_proj", "out_proj"),  # OPT, CLIP
    ("q_lin", "k_lin", "v_lin", "out_lin"),  # DistilBERT
    ("q", "k", "v", "o"),  # T5
)
_HEADS = (
    "num_heads",
    "n_heads",
    "num_attention_heads",
    "self.num_attention_heads",
    "config.num_attention_heads",
)
_POSITIONS = ("pos", "rope", "rot", "freqs", "cos")
"""Parts of the names of arguments that bring rotations, which pair up channels."""


def find_units(model: nn.Module) -> tuple[list[Units], dict[str, str]]:
    """Units by structure, and why those of other modules with such names are left as they are."""
    found: list[Units] = []
    left: dict[str, str] = {}
    tied, holders = tied_weights(model), Counter(_children(model))
    for name, module in model.named_modules():
        for units in (*_mlp(name, module), *_row(name, module), *_attention(name, module)):
            layers = {n: model.get_submodule(n) for n in units.layers}
            why = next(filter(None, (_why_not(n, m, tied) for n, m in layers.items())), "")
            if any(holders[m] > 1 for m in layers.values()):
                why = "a layer of it is shared with another module"
            starts = [p.at for s in units.sets for p in (*s.rows, *s.columns)]
            if units.size % 4 or any(at % 4 for at in starts):
                why = f"{units.size} {units.kind} are no multiple of 4"
            if why:
                left[f"{name} {units.kind}"] = why
            else:
                found.append(units)
    return found, left


def _children(model: nn.Module) -> Iterator[nn.Module]:
    for parent in model.modules():
        yield from (child for child in parent._modules.values() if child is not None)


def _why_not(name: str, layer: nn.Module, tied: dict[str, list[str]]) -> str:
    if name in tied:
        return f"{name}.weight is tied to {tied[name][0]}"
    if "weight" not in layer._parameters or "forward" in layer.__dict__:
        return f"{name} is computed by something that was put on it"
    return ""


def _mlp(name: str, module: nn.Module) -> Iterator[Units]:
    for firsts, second in _MLPS:
        linears = [_linear(module, path) for path in (*firsts, second)]
        if None in linears:
            continue
        *producers, consumer = linears
        hidden = consumer.in_features
        sizes = {each.out_features for each in producers}
        if sizes == {hidden}:
            starts = (0,)
        elif len(firsts) == 1 and sizes == {2 * hidden}:  # gate and value in one layer
            starts = (0, hidden)
        else:
            return
        rows = tuple(Place(_join(name, path), at) for path in firsts for at in starts)
        columns = (Place(_join(name, second), 0),)
        yield Units(name, "hidden units", hidden, (UnitSet(rows, columns),))
        return


def _row(name: str, module: nn.Module) -> Iterator[Units]:
    """Linear layers that follow each other in an nn.Sequential, whatever is between them."""
    if not isinstance(module, nn.Sequential):
        return
    linears = [(n, child) for n, child in module.named_children() if type(child) is nn.Linear]
    for (first, producer), (second, consumer) in pairwise(linears):
        if (hidden := consumer.in_features) == producer.out_features:
            rows, columns = (Place(_join(name, path), 0) for path in (first, second))
            yield Units(name, "hidden units", hidden, (UnitSet((rows,), (columns,)),))


def _attention(name: str, module: nn.Module) -> Iterator[Units]:
    heads = next(filter(None, (_attribute(module, path) for path in _HEADS)), None)
    if not isinstance(heads, int):
        return
    for qkv_path, proj_path in _FUSED:
        qkv, proj = _linear(module, qkv_path), _linear(module, proj_path)
        if qkv and proj and qkv.out_features == 3 * proj.in_features:
            if proj.in_features % heads == 0:
                paths = (qkv_path,) * 3
                starts = (0, proj.in_features, 2 * proj.in_features)
                yield from _heads(name, module, paths, starts, proj_path, (heads, heads))
            return
    for *paths, proj_path in _APART:
        q, k, v, proj = (_linear(module, path) for path in (*paths, proj_path))
        if not (q and k and v and proj) or proj.in_features % heads:
            continue
        size = proj.in_features // heads
        groups = v.out_features // size
        if q.out_features == proj.in_features and k.out_features == v.out_features == groups * size:
            yield from _heads(name, module, tuple(paths), (0, 0, 0), proj_path, (heads, groups))
        return


def _heads(
    name: str,
    module: nn.Module,
    paths: tuple[str, ...],
    starts: tuple[int, ...],
    proj: str,
    heads: tuple[int, int],
) -> Iterator[Units]:
    """Channels of each head of keys and values, which several heads of queries may read."""
    size: int = _linear(module, proj).in_features // heads[0]
    of_group = heads[0] // heads[1]
    q, k, v = (
        lambda head, path=path, start=start: Place(_join(name, path), start + head * size)
        for path, start in zip(paths, starts, strict=True)
    )
    groups = [range(g * of_group, (g + 1) * of_group) for g in range(heads[1])]
    values = [
        UnitSet((v(g),), tuple(Place(_join(name, proj), h * size) for h in group))
        for g, group in enumerate(groups)
    ]
    yield Units(name, "value channels", size, tuple(values))
    if not _rotates(module):
        keys = [UnitSet((*map(q, group), k(g)), ()) for g, group in enumerate(groups)]
        yield Units(name, "query and key channels", size, tuple(keys))


def _rotates(module: nn.Module) -> bool:
    """Whether positions from outside may rotate queries and keys, which no trial would see."""
    arguments = inspect.signature(module.forward).parameters
    return any(part in name for name in arguments for part in _POSITIONS)


def _linear(module: nn.Module, path: str) -> Any:
    child = _attribute(module, path)
    return child if type(child) is nn.Linear else None


def _attribute(module: Any, path: str) -> Any:
    for part in path.split("."):
        module = getattr(module, part, None)
    return module


def _join(name: str, path: str) -> str:
    return f"{name}.{path}" if name else path
