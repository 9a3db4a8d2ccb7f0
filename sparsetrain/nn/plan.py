"""What becomes of each layer of a model: decided as a whole, before the first one changes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from torch import nn

from sparsetrain.methods import STE, ActivationDropout24
from sparsetrain.nn.engine import Engines
from sparsetrain.nn.for_inference import PACKED, ForInference
from sparsetrain.nn.lookalikes import mlp_linears, why_not_gelu, why_unlike
from sparsetrain.nn.obstacles import same_view, tied_weights, weight_obstacle
from sparsetrain.nn.roles import Roles, fc1_of, fc2_of, roles_of
from sparsetrain.nn.shares import largest_unreached
from sparsetrain.nn.sparsity import Part, Sparsity
from sparsetrain.nn.structure import mlp_shape, why_not
from sparsetrain.products import Engine

Engined = tuple[Engine, str]
"""An engine, and the line that says why."""


@dataclass
class Plan:
    """parts: the rule of each layer that one names. linears, mlps: those that are converted, and
    the MLPs that get 2:4 activations. dense: why other linear layers stay dense; dense_mlps: why
    MLPs' activations do. fused: why MLPs with 2:4 weights are not one function, empty
    where they are."""

    parts: dict[str, Part] = field(default_factory=dict)
    linears: dict[str, tuple[Part, Engined]] = field(default_factory=dict)
    mlps: dict[str, tuple[Part, Engined]] = field(default_factory=dict)
    dense: dict[str, str] = field(default_factory=dict)
    dense_mlps: dict[str, str] = field(default_factory=dict)
    fused: dict[str, str] = field(default_factory=dict)


def make_plan(
    model: nn.Module, sparsity: Sparsity, engines: Engines, tokens: Mapping[str, int]
) -> Plan:
    """Decide for every linear layer and MLP. Raises ValueError if a glob matches no linear layer,
    or an activation no MLP, and for a layer that is packed for inference."""
    plan = Plan(dense=_packed(model, sparsity))
    linears = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    _check_globs(model, linears, sparsity)
    for name, linear in linears.items():
        part = _part_of(name, sparsity)
        if isinstance(part, str):
            plan.dense[name] = part
            continue
        plan.parts[name] = part
        if part.weight and (reason := weight_obstacle(model, name, linear, part)):
            plan.dense[name] = reason
    _refuse_ties(model, plan)
    _choose_mlps(model, plan, engines, tokens)
    for name, part in plan.parts.items():
        parent, linear = name.rpartition(".")[0], linears[name]
        if part.weight is None:
            why = plan.dense_mlps.get(parent, "it is in none")
            plan.dense[name] = f"its MLP stays dense: {why}"
        elif name in plan.dense:
            continue
        elif parent in plan.mlps:
            engine = plan.mlps[parent][1][0]
            plan.linears[name] = part, (engine, f"{engine}: with its MLP")
        else:
            shape = linear.out_features, linear.in_features
            plan.linears[name] = part, engines.of_part(name, part, shape, tokens.get(name))
    _fuse(model, plan)
    return plan


def _packed(model: nn.Module, sparsity: Sparsity) -> dict[str, str]:
    """The layers that are packed for inference, which no part may name, as layers that stay so."""
    found = [name for name, m in model.named_modules() if isinstance(m, ForInference)]
    for name in found:
        if isinstance(_part_of(name, sparsity), Part):
            raise ValueError(f"{name or 'the model'} {PACKED}, or exclude it")
    return dict.fromkeys(found, "it is packed for inference")


def _check_globs(model: nn.Module, linears: dict[str, nn.Linear], sparsity: Sparsity) -> None:
    for part in (sparsity, *sparsity.parts.values()):
        for kind in ("include", "exclude"):
            for glob in getattr(part, kind):
                if not any(fnmatchcase(name, glob) for name in linears):
                    hint = _hint(glob, linears) if linears else _without_any(model)
                    raise ValueError(f"{kind}: {glob!r} matches no linear layer; {hint}")


def _part_of(name: str, sparsity: Sparsity) -> Part | str:
    """The first part that names a layer, or why it stays dense."""
    why = _left_out(name, sparsity)
    for part in () if why else sparsity.rules:
        own = _left_out(name, part)
        if not own:
            return "its part is dense" if part.dense else part
        why = own if why != "excluded" else why
    return why


def _left_out(name: str, part: Part) -> str:
    """Why a part does not hold for a layer; empty where it does."""
    if _globbed(name, part.exclude):
        return "excluded"
    return "" if _globbed(name, part.include) else "not named by include"


def _globbed(name: str, globs: Iterable[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


def _hint(glob: str, linears: dict[str, nn.Linear]) -> str:
    near = difflib.get_close_matches(glob, linears, n=3, cutoff=0.4)
    names = near + [name for name in linears if name not in near]
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"it has {', '.join(names[:8])}{more}"


def _without_any(model: nn.Module) -> str:
    other = largest_unreached(model)
    return f"the model has none ({other})" if other else "the model has none"


def _refuse_ties(model: nn.Module, plan: Plan) -> None:
    """A weight that two modules share is sparse in both or in none."""
    tied, parts = tied_weights(model), plan.parts
    for name in [n for n in parts if n in tied]:
        for other in tied[name]:
            if parts.get(other) != parts[name] or other in plan.dense:
                plan.dense.setdefault(name, f"its weight is tied to {other}, which stays dense")
            elif not same_view(*(model.get_parameter(f"{n}.weight") for n in (name, other))):
                plan.dense.setdefault(
                    name, f"its weight shares memory with {other} in another layout"
                )


def _choose_mlps(model: nn.Module, plan: Plan, engines: Engines, tokens: Mapping[str, int]) -> None:
    """MLPs with both linears in a part with an activation take it, where they can."""
    activations = {part.activation for part in plan.parts.values()} - {None}
    names = {module: name for name, module in model.named_modules()}
    for name, module, roles in _mlps(model) if activations else ():
        fc1, fc2 = fc1_of(module), fc2_of(module)
        fcs = names.get(fc1, ""), names.get(fc2, "")
        part = plan.parts.get(fcs[0])
        if part is None or plan.parts.get(fcs[1]) != part or not part.activation:
            continue
        drops = roles.drops[:1] if isinstance(part.activation, ActivationDropout24) else ()
        reason = "it is the model itself: wrap it in another module"
        reason = why_not(module, may_drop=drops) if name else reason
        shared = [n for n in fcs if n.rpartition(".")[0] != name]
        reason = f"it shares {' and '.join(shared)}" if shared else reason
        one = f"its {roles.fc1} and {roles.fc2} are one layer"
        reason = one if fc1 is fc2 else reason
        if reason:
            plan.dense_mlps[name] = reason
            continue
        sparse = replace(part, weight=None) if plan.dense.keys() & set(fcs) else part
        engine = engines.of_part(name, sparse, mlp_shape(module), tokens.get(fcs[0]))
        plan.mlps[name] = part, engine
    if activations and not plan.mlps:
        reasons = plan.dense_mlps or why_unlike(model)
        found = "; ".join(f"{n or 'the model'}: {r}" for n, r in list(reasons.items())[:5])
        activation = next(iter(activations))
        raise ValueError(
            f"activation={activation}: no MLP can take it ({found or 'no MLP is included'})"
        )


def _fuse(model: nn.Module, plan: Plan) -> None:
    """MLPs with GELU whose two weights are 2:4 and run native become one function."""
    native = {n: part for n, (part, (engine, _)) in plan.linears.items() if engine == "native"}
    for name, linears in mlp_linears(model).items():
        mlp, others = model.get_submodule(name), [n for n in linears if n not in native]
        if name in plan.mlps or len(others) == len(linears) or (others and roles_of(mlp) is None):
            continue
        methods = [native[linear].weight for linear in linears if linear in native]
        if others:
            why = f"{others[0].rpartition('.')[2]} is not 2:4 on native products"
        elif not all(isinstance(method, STE) and not method.mvue for method in methods):
            why = "MVUE and S-STE have products of their own"
        else:
            why = why_not_gelu(name, mlp)
        plan.fused[name] = why


def _mlps(model: nn.Module) -> list[tuple[str, nn.Module, Roles]]:
    found = [(name, module, roles_of(module)) for name, module in model.named_modules()]
    return [(name, module, roles) for name, module, roles in found if roles is not None]
