"""What becomes of each layer of a model: decided as a whole, before the first one changes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from sparsetrain.methods import STE, ActivationDropout24
from sparsetrain.nn.engine import Engines
from sparsetrain.nn.obstacles import tied_weights, weight_obstacle
from sparsetrain.nn.recorded import Products, linear_products, mlp_products
from sparsetrain.nn.sparsity import Part, Sparsity
from sparsetrain.nn.structure import is_mlp, why_not
from sparsetrain.patterns import NM
from sparsetrain.products import Engine

Engined = tuple[Engine, str]
"""An engine, and the line that says why."""


@dataclass
class Plan:
    """linears, mlps: what is converted, by name, and the rule that asks for it; that of MLPs with
    2:4 weights and GELU is None. dense: why other linear layers stay dense; dense_mlps: why MLPs'
    activations do; apart: why MLPs with GELU are not one function. included: layers of a rule."""

    linears: dict[str, tuple[Part, Engined]] = field(default_factory=dict)
    mlps: dict[str, tuple[Part | None, Engined]] = field(default_factory=dict)
    dense: dict[str, str] = field(default_factory=dict)
    dense_mlps: dict[str, str] = field(default_factory=dict)
    apart: dict[str, str] = field(default_factory=dict)
    included: set[str] = field(default_factory=set)


def make_plan(
    model: nn.Module, sparsity: Sparsity, engines: Engines, tokens: Mapping[str, int]
) -> Plan:
    """Decide for every linear layer and MLP. Raises ValueError if a glob matches no linear layer,
    or an activation no MLP."""
    linears = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    part_of = _match(linears, sparsity)
    plan = Plan(included=set(part_of))
    for name, linear in linears.items():
        if name not in part_of:
            plan.dense[name] = _why_unnamed(name, sparsity)
        elif part_of[name].weight is not None:
            reason = weight_obstacle(model, name, linear, part_of[name])
            if reason:
                plan.dense[name] = reason
    _refuse_ties(model, plan, part_of)
    sparse = {n: p for n, p in part_of.items() if p.weight is not None and n not in plan.dense}
    shapes = {n: (m.out_features, m.in_features) for n, m in linears.items()}
    _choose_mlps(model, plan, part_of, sparse, shapes, engines, tokens)
    for name, part in part_of.items():
        if part.weight is None:
            why = plan.dense_mlps.get(name.rpartition(".")[0], "it is in none")
            plan.dense[name] = f"its MLP stays dense: {why}"
    for name, part in sparse.items():
        parent = name.rpartition(".")[0]
        if parent in plan.mlps:
            engine = plan.mlps[parent][1][0]
            plan.linears[name] = part, (engine, f"{engine}: with its MLP")
        else:
            plan.linears[name] = part, _engine(name, part, shapes[name], engines, tokens)
    _fuse_gelu(model, plan)
    return plan


def _engine(
    name: str,
    part: Part,
    shape: tuple[int, int],
    engines: Engines,
    tokens: Mapping[str, int],
) -> Engined:
    products: Products = {}
    if name in tokens and isinstance(part.pattern, NM):
        assert part.weight is not None, "it is sparse"
        given = shape, part.weight, part.selection, part.format
        products = linear_products(tokens[name], *given)
    return engines.of_part(name, part, *shape, products=products)


def _match(linears: dict[str, nn.Linear], sparsity: Sparsity) -> dict[str, Part]:
    """The first part that names each layer."""
    for part in sparsity.rules:
        for kind in ("include", "exclude"):
            for glob in getattr(part, kind):
                if not any(fnmatchcase(name, glob) for name in linears):
                    hint = _hint(glob, linears)
                    raise ValueError(f"{kind}: {glob!r} matches no linear layer; {hint}")
    found: dict[str, Part] = {}
    for name in linears:
        for part in sparsity.rules:
            if _globbed(name, part.include) and not _globbed(name, part.exclude):
                if not part.dense:
                    found[name] = part
                break
    return found


def _why_unnamed(name: str, sparsity: Sparsity) -> str:
    for part in sparsity.rules:
        if _globbed(name, part.exclude):
            return "excluded"
        if _globbed(name, part.include):
            return "its part is dense"
    return "not named by include"


def _globbed(name: str, globs: Iterable[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


def _hint(glob: str, linears: dict[str, nn.Linear]) -> str:
    if not linears:
        return "the model has none"
    near = difflib.get_close_matches(glob, linears, n=3, cutoff=0.4)
    names = near + [name for name in linears if name not in near]
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"it has {', '.join(names[:8])}{more}"


def _refuse_ties(model: nn.Module, plan: Plan, part_of: dict[str, Part]) -> None:
    """A weight that two modules share is sparse in both or in none."""
    tied = tied_weights(model)
    for name in [n for n in part_of if n in tied]:
        for other in tied[name]:
            if part_of.get(other) != part_of[name] or other in plan.dense:
                plan.dense.setdefault(name, f"its weight is tied to {other}, which stays dense")


def _choose_mlps(
    model: nn.Module,
    plan: Plan,
    part_of: dict[str, Part],
    sparse: dict[str, Part],
    shapes: dict[str, tuple[int, int]],
    engines: Engines,
    tokens: Mapping[str, int],
) -> None:
    """MLPs with both linears in a part with an activation take it, where they can."""
    activations = {part.activation for part in part_of.values()} - {None}
    names = {module: name for name, module in model.named_modules()}
    for name, module in model.named_modules() if activations else ():
        if not is_mlp(module):
            continue
        fc1, fc2 = names.get(module.fc1, ""), names.get(module.fc2, "")
        part = part_of.get(fc1)
        if part is None or part_of.get(fc2) != part or not part.activation:
            continue
        drops = isinstance(part.activation, ActivationDropout24)
        reason = "it is the model itself: wrap it in another module"
        reason = why_not(module, replaces_dropout=drops) if name else reason
        shared = [n for n in (fc1, fc2) if n.rpartition(".")[0] != name]
        reason = f"it shares {' and '.join(shared)}" if shared else reason
        if reason:
            plan.dense_mlps[name] = reason
            continue
        shape = shapes[fc1][1], shapes[fc1][0], shapes[fc2][0]
        products: Products = {}
        if fc1 in tokens:
            method = part.weight if fc1 in sparse and fc2 in sparse else None
            given = shape, part.activation, method, part.selection, part.format
            products = mlp_products(tokens[fc1], *given)
        plan.mlps[name] = part, engines.of_part(name, part, *shape, products=products)
    if activations and not plan.mlps:
        found = "; ".join(f"{n or 'the model'}: {r}" for n, r in list(plan.dense_mlps.items())[:5])
        activation = next(iter(activations))
        raise ValueError(
            f"activation={activation}: no MLP can take it ({found or 'no MLP is included'})"
        )


def _fuse_gelu(model: nn.Module, plan: Plan) -> None:
    """MLPs with GELU whose two weights are 2:4 and run native become one function."""
    modules: list[tuple[str, Any]] = list(model.named_modules())
    for name, module in modules:
        fcs = [plan.linears.get(f"{name}.{fc}" if name else fc) for fc in ("fc1", "fc2")]
        if name in plan.mlps or not is_mlp(module) or type(module.act) is not nn.GELU:
            continue
        if any(fc is None or fc[1][0] != "native" for fc in fcs):
            continue
        methods = [fc[0].weight for fc in fcs if fc is not None]
        if not name:
            why = "it is the model itself, wrap it in another module"
        elif not all(isinstance(method, STE) and not method.mvue for method in methods):
            why = "MVUE and S-STE have products of their own"
        else:
            why = why_not(module)
        if why:
            plan.apart[name] = why
        else:
            plan.mlps[name] = None, ("native", "native")
