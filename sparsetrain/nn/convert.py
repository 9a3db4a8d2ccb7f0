"""Make a model sparse, once, before its optimizer is made; and undo it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import nn

from sparsetrain import native
from sparsetrain.methods import SSTE, Activation24
from sparsetrain.nn.choose import describe
from sparsetrain.nn.engine import find_engines
from sparsetrain.nn.for_inference import refuse_packed
from sparsetrain.nn.given import check_module
from sparsetrain.nn.linear import SparseLinear, sparse_linears
from sparsetrain.nn.made import places
from sparsetrain.nn.mlp import SparseMlp
from sparsetrain.nn.obstacles import same_view, tied_weights
from sparsetrain.nn.phase import Phase
from sparsetrain.nn.plan import Plan, make_plan
from sparsetrain.nn.report import LayerReport, Report, one_function_note
from sparsetrain.nn.roles import known_roles
from sparsetrain.nn.sharded import is_wrapped, local, own_rows, reshard
from sparsetrain.nn.shares import largest_unreached, shares_of, unreached
from sparsetrain.nn.sparsity import Sparsity, check_sparsity
from sparsetrain.nn.structure import mlp_shape
from sparsetrain.nn.swap import replace_modules
from sparsetrain.products import NATIVE, Engine, product_of

_FUSED = "fc1, GELU and fc2 as one function, until one of them is changed"


def sparsify(
    model: nn.Module,
    sparsity: Sparsity,
    engine: Engine | Literal["auto"] = "auto",
    *,
    tokens: Mapping[str, int] | None = None,
    on_cpu: bool = False,
) -> Report:
    """Convert the layers of `model` that `sparsity` names, in place, and report each layer.

    Parameters are shared with the dense layers and keep their names: state dicts, optimizers
    and checkpoints do not change. Call it before the optimizer and before any wrapping (DDP,
    FSDP2, torch.compile). After `fully_shard` it works for modules that were not themselves given
    to it.

    engine: `auto` takes for each layer `native` on compute capability 9.0, `aten` on 8.x and
        `masked` where those cannot multiply it; the report says which, and why (`nn.engine`). In
        float32 on a GPU every layer runs masked.
    tokens: rows that each linear layer multiplies in training, by its name (`nn.count_tokens`).
        With them, `auto` asks what `tune` measured, or the sizes let expect, of each product; the
        report says it, and a layer that would not gain is masked. Its shares are of those tokens.
    on_cpu: the model will run on the CPU although there is a GPU, so `auto` is `masked`.

    Raises ValueError, and changes nothing, if a glob matches no linear layer, if nothing could be
    converted, if the model is sparse already, if a layer that `sparsity` names is packed for
    inference, or if this machine cannot run the engine asked for.
    """
    check_module(model)
    check_sparsity(sparsity)
    if any(isinstance(m, (SparseLinear, SparseMlp)) for m in model.modules()):
        raise ValueError("the model is sparse already: call densify(model) first")
    if sparsity.dense:
        return Report((), (), ("Nothing to make sparse: weight and activation are both None.",))
    reshard(model)
    plan = make_plan(model, sparsity, find_engines(engine, on_cpu), tokens or {})
    if not plan.linears and not plan.mlps:
        raise ValueError(f"no included layer can become sparse ({_why_dense(model, plan)})")
    report = _convert(model, plan, Phase(sparsity.schedule))
    return replace(report, unreached=unreached(model), shares=shares_of(model, tokens or {}))


def densify(model: nn.Module, *, apply_masks: bool = False) -> nn.Module:
    """Undo `sparsify` in place; returns the model.

    apply_masks: write what an evaluation multiplies by (zeros, and the soft values of S-STE) into
        the weights first, so that the outputs stay as they were; layers in a dense phase use all
        of their weights. Otherwise the dense master weights stay as they are.
    MLPs whose activations were 2:4 keep squared ReLU, which they were trained with.
    Raises ValueError, before anything changes, for a sparse layer that was itself given to
    `fully_shard`, or whose weight is computed by a parametrization that was put on later; with
    apply_masks, for one whose weight was tied later to what is not sparse, or is sparse in another
    way; and for a model whose layers are packed for inference.
    """
    check_module(model)
    reshard(model)
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, (SparseMlp, SparseLinear))]
    if not layers:
        refuse_packed(model, "densify")
    for name, module in layers:
        if is_wrapped(module):
            raise ValueError(
                f"{name} was itself given to fully_shard: gather the state dict, load it into a "
                "model that is not sharded, and call densify on that"
            )
        if isinstance(module, SparseLinear) and "weight" not in module._parameters:
            raise ValueError(
                f"{name}.weight is computed since sparsify, by a parametrization, weight_norm or "
                "pruning: remove that first (torch.nn.utils.parametrize.remove_parametrizations)"
            )
    if apply_masks:
        _apply_masks(model)
    phases = {layer.phase for _, layer in layers}
    for kind in (SparseMlp, SparseLinear):  # an MLP holds its linears
        found = [layer for _, layer in layers if isinstance(layer, kind)]
        replace_modules(model, [(layer, layer.to_dense()) for layer in found])
    for made in {made for phase in phases for made in phase.made}:
        made.leave()
    return model


def _apply_masks(model: nn.Module) -> None:
    linears, tied, written = sparse_linears(model), tied_weights(model), set[str]()
    for name, layer in linears.items():
        for other in tied.get(name, ()):
            if why := _why_not_tied(layer, linears.get(other)):
                raise ValueError(
                    f"{name}.weight is tied since sparsify to {other}, which {why}: call densify "
                    "without apply_masks, or untie them"
                )
    for name, layer in linears.items():
        if written.isdisjoint(tied.get(name, ())):  # the soft threshold of S-STE applies once
            used = layer.evaluated_weight()
            local(layer.weight.data).copy_(own_rows(used, layer.weight))
            written.add(name)


def _why_not_tied(layer: SparseLinear, other: SparseLinear | None) -> str:
    if other is None:
        return "is not sparse"
    same = same_view(layer.weight, other.weight)
    same = same and torch.equal(layer.evaluated_weight(), other.evaluated_weight())
    return "" if same else "multiplies by other values of it"


def _why_dense(model: nn.Module, plan: Plan) -> str:
    """Five reasons, each with the first of the included layers that stay dense for it; and the
    largest matrices in no linear layer."""
    names: dict[str, list[str]] = {}
    for name, reason in plan.dense.items():
        if name in plan.parts:
            names.setdefault(reason, []).append(name)
    lines = [
        f"{found[0]}{f' and {len(found) - 1} more' if len(found) > 1 else ''}: {reason}"
        for reason, found in names.items()
    ]
    if not lines:
        return "none is in include and not in exclude"
    more = f"and {len(lines) - 5} more reasons" if len(lines) > 5 else ""
    return "; ".join(filter(None, (*lines[:5], more, largest_unreached(model))))


def _convert(model: nn.Module, plan: Plan, phase: Phase) -> Report:
    rows, skipped, pairs = [], [], []
    for name, (part, (engine, why)) in plan.linears.items():
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear), "as planned"
        assert part.weight is not None, "as planned"
        product = product_of(engine, part.format)
        layer = SparseLinear.from_dense(
            linear, part.weight, part.selection, product, phase, part.pattern
        )
        pairs.append((linear, layer))
        what = part.weight.describe(describe(part.pattern, part.selection))
        rows.append(LayerReport(name, tuple(linear.weight.shape), what, why))
    replace_modules(model, pairs)
    mlps = []
    for name, (part, (engine, why)) in plan.mlps.items():
        mlp, activation = model.get_submodule(name), part.activation
        assert activation is not None, "as planned"
        product = product_of(engine, part.format)
        mlps.append((mlp, SparseMlp.from_dense(mlp, activation, product, phase)))
        rows.append(LayerReport(name, mlp_shape(mlp), activation.describe(), why))
    for name in [name for name, why in plan.fused.items() if not why]:
        mlp = model.get_submodule(name)
        mlps.append((mlp, SparseMlp.from_dense(mlp, None, NATIVE, phase)))
    replace_modules(model, mlps)
    for name, reason in plan.dense.items():
        if name.rpartition(".")[0] not in plan.mlps:
            linear: Any = model.get_submodule(name)
            shape = linear.out_features, linear.in_features
            skipped.append(LayerReport(name, shape, "dense", reason=reason))
    for name, reason in plan.dense_mlps.items():
        reason = f"its activations stay dense: {reason}"
        shape = mlp_shape(model.get_submodule(name))
        skipped.append(LayerReport(name, shape[:2], "dense", reason=reason))
    phase.made = places(model, plan.linears)
    kernels, fused = _missing_kernels(), one_function_note(plan.fused, _FUSED)
    return Report(tuple(rows), tuple(skipped), _notes(plan), kernels, fused, _fp8_note(model, plan))


def _missing_kernels() -> str:
    library = native.load()
    if library.path is not None or not torch.cuda.is_available():
        return ""
    return f"GPUs choose masks in plain PyTorch, slowly: {library.reason}; {library.fix}."


def _notes(plan: Plan) -> tuple[str, ...]:
    methods = {part.weight for part, _ in plan.linears.values()}
    notes = []
    for what in sorted({method.in_step[0] for method in methods if method} - {""}):
        notes.append(
            f"{what}: the callback SparsifyModel, or attach(model, optimizer), adds it in the "
            "optimizer step."
        )
    if any(isinstance(method, SSTE) for method in methods):
        notes.append("S-STE: β is taken from the weights as they are when training starts.")
    if any(isinstance(part.activation, Activation24) for part, _ in plan.mlps.values()):
        notes.append("The activation of the sparse MLPs is now squared ReLU.")
    return tuple(notes)


def _fp8_note(model: nn.Module, plan: Plan) -> str:
    """Which products of the layers with the format FP8 read 8 bits, for each kind of them."""
    mlps = {n: model.get_submodule(n) for n, (part, _) in plan.mlps.items() if part.format}
    parts = [part for part, _ in plan.linears.values() if part.format]
    notes = []
    if any(part.selection.both for part in parts):
        notes.append("fp8: forward and grad input read 8 bits, grad weight does not.")
    if any(not part.selection.both for part in parts):
        notes.append("fp8, selection row: forward reads 8 bits, grad input and grad weight do not.")
    if any(f"{n}.{known_roles(mlp).fc1}" not in plan.linears for n, mlp in mlps.items()):
        notes.append(
            "fp8, dense weights: fc2's forward and fc1's grad input read 8 bits, fc1's forward, "
            "fc2's grad input and both grad weights do not."
        )
    return "\n".join(notes)
