"""Turn a model with 2:4 weights into one for inference, in place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from sparsetrain.inference.engine import engine_of
from sparsetrain.inference.linear import DTYPES, PackedLinear, short
from sparsetrain.inference.mlp import PackedMlp, why_not_packed
from sparsetrain.nn import (
    LayerReport,
    Part,
    Report,
    SparseLinear,
    SquaredReLU,
    densify,
)
from sparsetrain.nn.engine import find_engines
from sparsetrain.nn.given import check_module, unwrapped
from sparsetrain.nn.lookalikes import mlp_linears, why_not_gelu
from sparsetrain.nn.obstacles import weight_obstacle
from sparsetrain.nn.report import grouped, one_function_note
from sparsetrain.nn.sharded import is_sharded
from sparsetrain.nn.shares import unreached
from sparsetrain.nn.swap import replace_modules
from sparsetrain.patterns import NM
from sparsetrain.pruning.conv1d import put_back, replace_conv1d
from sparsetrain.select import ROW

_RULE = Part(selection=ROW)
_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)


def quantize(
    model: nn.Module,
    dtype: torch.dtype = torch.float8_e4m3fn,
    *,
    include: tuple[str, ...] = (),
) -> Report:
    """Pack the 2:4 weights of a model of any library for inference, in place; say what became of
    each linear layer.

        st.prune(model, st.Magnitude())      # or trained by sparsify, or 2:4 from elsewhere
        st.quantize(model)                   # e4m3 weights, inputs quantized token by token
        model = torch.compile(model)

    Each linear layer whose weight has at most two non-zeros in every four of a row becomes a
    `PackedLinear`; sparse layers count as an evaluation would multiply by them. The others stay as
    they are, sparse ones as dense layers with zeros. The model ends in eval mode, and its
    parameters want no gradients. Hidden activations that were 2:4 are squared ReLU, dense. Of a
    model that is compiled or in DDP the module inside is packed, by its own names.

    dtype: torch.float8_e4m3fn or torch.int8 quantize, weights with a scale for each row and inputs,
        in each forward, with one for each token. torch.bfloat16 and torch.float16 only pack.
    include: globs of layers that are packed, all others stay dense; an error names one whose weight
        is not 2:4. Without, all 2:4 weights are.

    GPU products need compute capability 9.0; 16-bit ones run on 8.x too, and int8 runs in plain
    PyTorch there, as everything does on a CPU; the report says so.

    Raises ValueError, and changes nothing, where no weight is 2:4 or one of `include` is not, for
    another dtype, a model that is packed already, and a GPU without products for the dtype.
    """
    check_module(model)
    model = unwrapped(model)
    if dtype not in DTYPES:
        known = ", ".join(map(str, DTYPES))
        raise ValueError(f"dtype={dtype!r}: choose one of {known}")
    globs = tuple(include) if isinstance(include, Iterable) else (include,)
    if isinstance(include, str) or not all(isinstance(glob, str) for glob in globs):
        glob = include if isinstance(include, str) else "*mlp*"
        raise ValueError(f"include={include!r}: give a tuple of globs, as ({glob!r},)")
    if packed_linears(model):
        raise ValueError("the model is packed already: quantize the one that it was made of")
    pairs = replace_conv1d(model)
    try:
        linears, dense = _choose(model, globs)
        if not linears:
            raise ValueError(f"no linear layer has a 2:4 weight: {_hint(dense)}")
        on_cpu = not any(linear.weight.is_cuda for linear in linears.values())
        engines, layers, rows = find_engines("auto", on_cpu), {}, []
        for name, linear in linears.items():
            shape = linear.out_features, linear.in_features
            product, why = engine_of(engines, dtype, name, shape)
            layers[name] = PackedLinear.pack(_used(linear), linear.bias, dtype, product)
            rows.append(LayerReport(name, shape, f"2:4 {short(dtype)}", why))
        others = unreached(model)
        fused = put_packed(model, layers)
    finally:
        put_back(model, pairs)
    return Report(tuple(rows), dense, _notes(model), fused=fused, unreached=others)


def put_packed(model: nn.Module, layers: Mapping[str, PackedLinear]) -> str:
    """Put packed layers in place of the linear ones of these names, and MLPs of them in place of
    MLPs; the model is for inference then. Returns a line about those MLPs, and one for each reason
    why others with packed layers are no such; empty without any.
    """
    densify(model, apply_masks=True)
    model.eval().requires_grad_(False)
    found = {
        name: why_not_gelu(name, model.get_submodule(name), drops=True)
        for name, linears in mlp_linears(model).items()
        if layers.keys() & {*linears}
    }
    linears = {name: model.get_submodule(name) for name in layers}
    for name, layer in layers.items():
        for hooks in _HOOKS:
            setattr(layer, hooks, getattr(linears[name], hooks))
    replace_modules(model, [(linears[name], layer) for name, layer in layers.items()])
    pairs = []
    for name in [name for name, why in found.items() if not why]:
        dense = model.get_submodule(name)
        mlp = PackedMlp.from_dense(dense)
        found[name] = why_not_packed(mlp)
        pairs += [] if found[name] else [(dense, mlp)]
    replace_modules(model, pairs)
    mlps = [module for module in model.modules() if isinstance(module, PackedMlp)]
    return one_function_note(found, mlps[0].extra_repr() if mlps else "")


def packed_linears(model: nn.Module) -> dict[str, PackedLinear]:
    """The model's packed layers by name."""
    return {n: m for n, m in model.named_modules() if isinstance(m, PackedLinear)}


def _choose(
    model: nn.Module, include: tuple[str, ...]
) -> tuple[dict[str, nn.Linear], tuple[LayerReport, ...]]:
    """The layers to pack by name, and why other linear layers stay dense."""
    linears = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    for glob in include:
        if not any(fnmatchcase(name, glob) for name in linears):
            raise ValueError(f"include: {glob!r} matches no linear layer")
    chosen, dense = {}, []
    for name, linear in linears.items():
        asked = any(fnmatchcase(name, glob) for glob in include)
        why = "not named by include" if include and not asked else _why_not_24(model, name, linear)
        if why and asked:
            raise ValueError(f"{name} cannot be packed: {why}; leave it out of include")
        if why:
            shape = linear.out_features, linear.in_features
            dense.append(LayerReport(name, shape, "dense", reason=why))
        else:
            chosen[name] = linear
    return chosen, tuple(dense)


def _why_not_24(model: nn.Module, name: str, linear: nn.Linear) -> str:
    if isinstance(linear, SparseLinear) and not linear.phase.runs_sparse(training=False):
        return "it is in a dense phase (st.set_sparse(model, True) applies the masks)"
    # Of a sparse layer the dense one was looked at; its class would not be plain.
    plain = linear.to_dense() if isinstance(linear, SparseLinear) else linear
    if why := weight_obstacle(model, name, plain, _RULE):
        return why
    if is_sharded(linear.weight) or linear.weight.is_meta:
        return "its weight is not here (sharded, or on the meta device)"
    weight = _used(linear)
    if bad := NM(2, 4).count_violations(weight):
        groups = weight.numel() // 4
        return f"its weight is not 2:4 along its rows in {bad} of {groups} fours (st.prune does it)"
    return "" if weight.count_nonzero() else "its weight is zero"


def _used(linear: nn.Linear) -> Tensor:
    return linear.evaluated_weight() if isinstance(linear, SparseLinear) else linear.weight.detach()


def _hint(dense: tuple[LayerReport, ...]) -> str:
    rows = [
        f"{row.name or 'the model'} ({count}): {row.reason}" for row, count in grouped(dense)[:3]
    ]
    return "; ".join(rows) or "it has none"


def _notes(model: nn.Module) -> tuple[str, ...]:
    found: Any = [m for m in model.modules() if isinstance(m, SquaredReLU)]
    return ("The squared ReLU of the MLPs is dense.",) if found else ()
