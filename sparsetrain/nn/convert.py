"""Make a model sparse, once, before its optimizer is made; and undo it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import nn

from sparsetrain import native
from sparsetrain.autograd import Engine
from sparsetrain.methods import SRSTE, SSTE, Activation24
from sparsetrain.nn.engine import find_engines
from sparsetrain.nn.fuse import fuse_gelu, fused_note
from sparsetrain.nn.gains import Products, linear_products, mlp_products
from sparsetrain.nn.linear import SparseLinear
from sparsetrain.nn.mlp import SparseMlp, is_mlp, why_not
from sparsetrain.nn.obstacles import weight_obstacles
from sparsetrain.nn.report import LayerReport, Report
from sparsetrain.nn.sharded import is_wrapped, local, own_rows, reshard
from sparsetrain.nn.sparsity import Sparsity
from sparsetrain.nn.swap import replace_module


def sparsify(
    model: nn.Module,
    sparsity: Sparsity,
    engine: Engine | Literal["auto"] = "auto",
    *,
    tokens: Mapping[str, int] | None = None,
    on_cpu: bool = False,
) -> Report:
    """Convert the layers of `model` that `sparsity` names, in place, and say what became of each.

    Parameters are shared with the dense layers and keep their names: state dicts, optimizers
    and checkpoints do not change. Call it before the optimizer and before any wrapping (DDP,
    FSDP2, torch.compile). After `fully_shard` it works for modules that were not themselves given
    to it.

    engine: `auto` takes for each layer `native` on compute capability 9.0, `aten` on 8.x and
        `masked` where those cannot multiply it, or nothing packs it fast; the report says which,
        and why (`nn.engine`). In float32 on a GPU every layer runs masked.
    tokens: rows that each linear layer multiplies in training, by its name (`nn.count_tokens`).
        With them, `auto` asks what `tune` measured, or the sizes let expect, of each product; the
        report says it, and a layer that would not gain is masked.
    on_cpu: the model will run on the CPU although there is a GPU, so `auto` is `masked`.

    Raises ValueError if a glob matches no linear layer, if nothing could be converted, if the
    model is sparse already, or if this machine cannot run the engine asked for.
    """
    if any(isinstance(m, (SparseLinear, SparseMlp)) for m in model.modules()):
        raise ValueError("the model is sparse already: call densify(model) first")
    if sparsity.dense:
        return Report((), (), ("Nothing to make sparse: weight and activation are both None.",))
    reshard(model)
    linears = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    included = _match(linears, sparsity)
    engines = find_engines(engine, on_cpu)
    mlps, mlp_reasons = _choose_mlps(model, included, sparsity.activation)
    obstacles = weight_obstacles(model, linears, sparsity.weight)

    reasons: dict[str, str] = {}
    for name in linears:
        parent = name.rpartition(".")[0]
        if name not in included:
            reasons[name] = "excluded" if _excluded(name, sparsity) else "not named by include"
        elif sparsity.weight is None:
            reasons[name] = f"its MLP stays dense: {mlp_reasons.get(parent, 'it is in none')}"
        elif name in obstacles:
            reasons[name] = obstacles[name]
    # All that can be refused is refused before the first layer changes.
    shapes = {n: (m.out_features, m.in_features) for n, m in linears.items()}
    mlp_shapes = {
        n: (shapes[f"{n}.fc1"][1], shapes[f"{n}.fc1"][0], shapes[f"{n}.fc2"][0]) for n in mlps
    }
    slow = _slow_to_pack(sparsity)
    engine_of: dict[str, tuple[Engine, str]] = {}
    for name, shape in mlp_shapes.items():
        products = _products_of_mlp(name, shape, sparsity, tokens or {})
        engine, why = engines.of_layer(name, *shape, products=products)
        engine_of |= {name: (engine, why)}
        engine_of |= {f"{name}.{fc}": (engine, f"{engine}: with its MLP") for fc in ("fc1", "fc2")}
    for name, shape in shapes.items():
        if name not in reasons and name not in engine_of:
            products = _products_of_linear(name, shape, sparsity, tokens or {})
            engine_of[name] = engines.of_layer(name, *shape, slow=slow, products=products)

    converted, skipped = [], []
    for name, linear in linears.items():
        if name not in reasons:
            assert sparsity.weight is not None, "there is a reason without"
            engine, why = engine_of[name]
            replace_module(model, linear, SparseLinear.from_dense(linear, sparsity.weight, engine))
            converted.append(LayerReport(name, shapes[name], sparsity.weight.describe(), why))
        elif name.rpartition(".")[0] not in mlps:
            skipped.append(LayerReport(name, shapes[name], "dense", reason=reasons[name]))
    for name in mlps:
        assert sparsity.activation is not None, "there are none without"
        engine, why = engine_of[name]
        mlp = SparseMlp.from_dense(model.get_submodule(name), sparsity.activation, engine)
        replace_module(model, model.get_submodule(name), mlp)
        what = sparsity.activation.describe()
        converted.append(LayerReport(name, mlp_shapes[name], what, why))
    for name, reason in mlp_reasons.items():
        shape = tuple(linears[f"{name}.{fc}"].in_features for fc in ("fc1", "fc2"))
        reason = f"its activations stay dense: {reason}"
        skipped.append(LayerReport(name, shape, "dense", reason=reason))
    fused = fuse_gelu(model) if sparsity.activation is None else {}
    if not converted:
        why = "; ".join(f"{r.name}: {r.reason}" for r in skipped if r.name in included)
        raise ValueError(f"no included layer can become 2:4 ({why})")
    return Report(
        tuple(converted), tuple(skipped), _notes(sparsity), _missing_kernels(), fused_note(fused)
    )


def densify(model: nn.Module, *, apply_masks: bool = False) -> nn.Module:
    """Undo `sparsify` in place; returns the model.

    apply_masks: write what the sparse products used (zeros, and the soft values of S-STE) into
        the weights first; layers in a dense phase used all of theirs (`set_sparse` changes
        that). Otherwise the dense master weights stay as they are.
    MLPs whose activations were 2:4 keep squared ReLU, which they were trained with.
    Raises ValueError, before anything changes, for a sparse layer that was itself given to
    `fully_shard`.
    """
    reshard(model)
    for name, module in model.named_modules():
        if isinstance(module, (SparseMlp, SparseLinear)) and is_wrapped(module):
            raise ValueError(
                f"{name} was itself given to fully_shard: gather the state dict, load it into a "
                "model that is not sharded, and call densify on that"
            )
    for mlp in [m for m in model.modules() if isinstance(m, SparseMlp)]:
        replace_module(model, mlp, mlp.to_dense())
    for layer in [m for m in model.modules() if isinstance(m, SparseLinear)]:
        if apply_masks:
            local(layer.weight.data).copy_(own_rows(layer.used_weight(), layer.weight))
        replace_module(model, layer, layer.to_dense())
    return model


def _products_of_linear(
    name: str, shape: tuple[int, int], sparsity: Sparsity, tokens: Mapping[str, int]
) -> Products:
    if name not in tokens or sparsity.weight is None:
        return {}
    both, mvue = sparsity.weight.rule != "row", sparsity.weight.mvue
    return linear_products(tokens[name], shape, both=both, mvue=mvue)


def _products_of_mlp(
    name: str, shape: tuple[int, int, int], sparsity: Sparsity, tokens: Mapping[str, int]
) -> Products:
    count = tokens.get(f"{name}.fc1")
    if count is None:
        return {}
    products = mlp_products(count, shape)
    if sparsity.weight is not None:
        inputs, hidden, outputs = shape
        first = linear_products(count, (hidden, inputs), both=True, mvue=False)
        second = linear_products(count, (outputs, hidden), both=True, mvue=False)
        products |= {"fc1 forward": first["forward"], "fc2 grad input": second["grad input"]}
    return products


def _slow_to_pack(sparsity: Sparsity) -> str:
    weight = sparsity.weight
    if weight is not None and (isinstance(weight, SSTE) or weight.rule == "row"):
        return "weights that are 2:4 along the input alone are packed without a kernel"
    return ""


def sparse_linears(model: nn.Module) -> dict[str, SparseLinear]:
    """The model's sparse linear layers by name."""
    return {n: m for n, m in model.named_modules() if isinstance(m, SparseLinear)}


def _match(linears: dict[str, nn.Linear], sparsity: Sparsity) -> set[str]:
    for kind in ("include", "exclude"):
        for glob in getattr(sparsity, kind):
            if not any(fnmatchcase(name, glob) for name in linears):
                raise ValueError(
                    f"{kind}: {glob!r} matches no linear layer; {_hint(glob, linears)}"
                )
    return {
        name
        for name in linears
        if any(fnmatchcase(name, glob) for glob in sparsity.include)
        and not _excluded(name, sparsity)
    }


def _excluded(name: str, sparsity: Sparsity) -> bool:
    return any(fnmatchcase(name, glob) for glob in sparsity.exclude)


def _hint(glob: str, linears: dict[str, nn.Linear]) -> str:
    if not linears:
        return "the model has none"
    near = difflib.get_close_matches(glob, linears, n=3, cutoff=0.4)
    names = near + [name for name in linears if name not in near]
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"it has {', '.join(names[:8])}{more}"


def _choose_mlps(
    model: nn.Module, included: set[str], activation: Activation24 | None
) -> tuple[list[str], dict[str, str]]:
    """Names of MLPs with both linears included that take the activation; and why others do not.

    Raises ValueError if an activation is asked for and no MLP can take it.
    """
    chosen, reasons = [], {}
    if activation is None:
        return chosen, reasons
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        if not is_mlp(module) or not {f"{prefix}fc1", f"{prefix}fc2"} <= included:
            continue
        reason = why_not(module)
        if reason is None and name:
            chosen.append(name)
        else:
            reasons[name] = reason or "it is the model itself: wrap it in another module"
    if not chosen:
        found = "; ".join(f"{n or 'the model'}: {r}" for n, r in list(reasons.items())[:5])
        raise ValueError(
            f"activation={activation}: no MLP can take it ({found or 'no MLP is included'})"
        )
    return chosen, reasons


def _missing_kernels() -> str:
    library = native.load()
    if library.path is not None or not torch.cuda.is_available():
        return ""
    return f"GPUs choose masks in plain PyTorch, slowly: {library.reason}; {library.fix}."


def _notes(sparsity: Sparsity) -> tuple[str, ...]:
    notes = []
    if isinstance(sparsity.weight, SRSTE) and sparsity.weight.decay > 0:
        notes.append(
            "SR-STE: the callback SparsifyModel, or decay_pruned_weights(model, optimizer), "
            "adds its decay in the optimizer step."
        )
    if isinstance(sparsity.weight, SSTE):
        notes.append("S-STE: β was taken from the weights as they are now; load them before.")
    if sparsity.activation is not None:
        notes.append("The activation of the sparse MLPs is now squared ReLU.")
    return tuple(notes)
