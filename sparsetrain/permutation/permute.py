"""Permute a model's units, so that 2:4 masks keep more, and say what that won."""

from __future__ import annotations

from collections import Counter

import torch
from torch import nn

from sparsetrain.nn import SparseLinear, SparseMlp, Sparsity
from sparsetrain.nn.choose import choose_mask
from sparsetrain.nn.engine import find_engines
from sparsetrain.nn.given import check_module
from sparsetrain.nn.plan import make_plan
from sparsetrain.nn.sharded import is_sharded
from sparsetrain.nn.sparsity import check_sparsity
from sparsetrain.patterns import NM
from sparsetrain.permutation.find import find_units
from sparsetrain.permutation.report import PermutedLayer, PermuteReport
from sparsetrain.permutation.search import find_order
from sparsetrain.permutation.tried import why_changed
from sparsetrain.permutation.units import Units, reorder, scores_of
from sparsetrain.pruning.conv1d import put_back, replace_conv1d
from sparsetrain.reference.masks24 import unpack_bits
from sparsetrain.select import ROW, Selection


def permute(
    model: nn.Module,
    sparsity: Sparsity | None = None,
    *,
    rounds: int = 30,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> PermuteReport:
    """Let units of a trained model change places, in place, so that its 2:4 masks keep more.

        st.permute(model, sparsity)    # before st.sparsify or st.prune with the same sparsity

    Hidden units of MLPs (gate and value together), value channels within attention heads, and
    query and key channels within heads that no rotation pairs up. Rows, biases and columns go
    together, so the function of the model stays as it is, up to the order of sums. Each module is
    tried first, on a copy in float64; those that would change are left, and the report says why.
    The trial sees what a module returns: call no permuted layer from outside of its module.

    sparsity: as it will be given to `sparsify` or `prune`; which layers are 2:4 and how their masks
        are chosen. All linear layers, exact, if None. Layers of other patterns gain nothing.
    rounds: of the search (`search.py`): a round takes 1 s for an MLP of ViT-B on one CPU core.
    seed: of its pairs. The order is the same on every device.
    device: where the search runs; where the weights lie, if None.

    Raises ValueError, and changes nothing, for a model that is sparse, sharded or on the meta
    device, for one that has gradients (an optimizer would hold its state in the old order), and as
    `sparsify` for globs.
    """
    _check(model, rounds)
    sparsity = Sparsity() if sparsity is None else sparsity
    check_sparsity(sparsity)
    convs = replace_conv1d(model)
    try:
        report = _permute(model, sparsity, rounds, seed, device)
        with torch.no_grad():
            for conv, linear in convs:
                conv.get_parameter("weight").copy_(linear.weight.T)
    finally:
        put_back(model, convs)
    return report


def _permute(
    model: nn.Module,
    sparsity: Sparsity,
    rounds: int,
    seed: int,
    device: torch.device | str | None,
) -> PermuteReport:
    plan = make_plan(model, sparsity, find_engines("masked", on_cpu=True), {})
    selections = {
        name: part.selection
        for name, (part, _) in plan.linears.items()
        if isinstance(part.pattern, NM)
    }
    found, left = find_units(model)
    found = [units for units in found if units.gaining(selections)]
    allowed: list[Units] = []
    for units in found:
        if why := why_changed(model, units):
            left[f"{units.name} {units.kind}"] = why
        else:
            allowed.append(units)
    layers = list(dict.fromkeys(n for units in allowed for n in units.gaining(selections)))
    rows = {name: _energy(model, name, ROW, device) for name in layers}
    before = {name: _energy(model, name, selections[name], device) for name in layers}
    for units in allowed:
        tiles_BUW, lines_BUL = scores_of(model, units, selections)
        order_BU = find_order(tiles_BUW.to(device), lines_BUL.to(device), rounds, seed)
        reorder(model, units, order_BU.to(tiles_BUW.device))
    after = {name: _energy(model, name, selections[name], device) for name in layers}
    return PermuteReport(
        tuple(PermutedLayer(n, rows[n], before[n], after[n]) for n in layers),
        _count(allowed),
        left,
    )


def _count(allowed: list[Units]) -> Counter[str]:
    """How many sets of units were permuted, by module and kind."""
    counts: Counter[str] = Counter()
    for units in allowed:
        counts[f"{units.name} {units.kind}"] += len(units.sets)
    return counts


def _energy(
    model: nn.Module, name: str, selection: Selection, device: torch.device | str | None
) -> float:
    """The share of Σ w² of a layer that its mask keeps."""
    weight = model.get_submodule(name).get_parameter("weight").detach().to(device).float()
    mask = unpack_bits(choose_mask(weight, NM(2, 4), selection), weight.shape[1])
    squares = weight.double().square()
    return ((squares * mask).sum() / squares.sum().clamp(min=1e-300)).item()


def _check(model: nn.Module, rounds: int) -> None:
    check_module(model)
    if not isinstance(rounds, int) or rounds < 1:
        raise ValueError(f"rounds={rounds!r}: give a whole number, at least 1")
    if any(isinstance(m, SparseLinear | SparseMlp) for m in model.modules()):
        raise ValueError(
            "the model is sparse already: call permute before sparsify, or densify(model) first"
        )
    for name, parameter in model.named_parameters():
        if is_sharded(parameter):
            raise ValueError(f"{name} is sharded: permute the model before fully_shard")
        if parameter.is_meta:
            raise ValueError(f"{name} is on the meta device: load the trained weights first")
        if parameter.grad is not None:
            raise ValueError(
                f"{name} has a gradient: permute before the optimizer is made, whose state would "
                "stay in the old order (or set gradients to None and make a new optimizer)"
            )
