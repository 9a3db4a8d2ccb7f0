"""Prune a trained model, layer by layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

from torch import Tensor, nn

from sparsetrain.methods import SSTE
from sparsetrain.nn import SparseLinear, Sparsity, densify, sparse_linears, sparsify
from sparsetrain.nn.given import check_module
from sparsetrain.nn.sharded import is_sharded
from sparsetrain.nn.sparsity import check_sparsity
from sparsetrain.products import Engine
from sparsetrain.pruning.calibrate import Calibration, Forward, call_model
from sparsetrain.pruning.conv1d import put_back, replace_conv1d
from sparsetrain.pruning.finished import FinishedLayers
from sparsetrain.pruning.job import Job, Method, OnLayer
from sparsetrain.pruning.report import PruneReport
from sparsetrain.pruning.statistics import Reads
from sparsetrain.schedule import Schedule
from sparsetrain.select import ROW

FROZEN = Schedule(freeze_at=0.0)
"""Of a pruned model: its masks stay, however it is trained."""


def prune(
    model: nn.Module,
    method: Method,
    sparsity: Sparsity | None = None,
    *,
    calibration: Iterable[Any] | None = None,
    forward: Forward = call_model,
    refit: bool = False,
    sequential: bool = True,
    engine: Engine | Literal["auto"] = "auto",
    finished: FinishedLayers | None = None,
    on_layer: OnLayer | None = None,
) -> PruneReport:
    """Prune linear layers of a trained model in place: sparse layers whose masks stay.

        st.prune(model, st.Wanda(), calibration=loader)                      # 2:4 along rows
        st.prune(model, st.SparseGPT(), st.Sparsity(pattern=st.Block(64, 64, 0.2)), …)

    Pruned weights are zero in the state dict. The model is as after `sparsify`: `inspect`,
    `sparse_state`, `densify` are the same, and `attach` trains it on under the masks it has. With
    the selection `exact` masks are 2:4 in both orientations, as sparse training wants them.

    method: `Magnitude()`, `WeightNorm()`, `Wanda()` or `SparseGPT()`.
    sparsity: which layers, pattern and selection, by parts if you like; all linear layers 2:4 along
        rows if None. Its methods train the model later, and its schedule is not used.
    calibration: batches, such as a list or a DataLoader; its order and values should be the same in
        every pass. forward: calls the model with one; a mapping is taken as keyword arguments, of a
        list or tuple the first is the input.
    refit: fit the kept weights of each layer to its output again, by least squares.
    sequential: collect the inputs of a layer after the layers before it were pruned. That is one
        pass over the batches to find the order, and one for each layer (for layers that read the
        same tensor together), up to that layer: L + 1 passes at most, (L + 1) / 2 forwards of work,
        in the memory of one layer's statistics. False collects all in one pass, from the dense
        model, in the memory of all layers' statistics.
        Statistics are float64: I numbers for Wanda, I² for SparseGPT and refit.
    engine: as in `sparsify`. finished: where finished layers are kept; a call with the same model
        and options goes on from them.
    on_layer: called with each layer when it is done, and how many there are.

    transformers' Conv1D layers become nn.Linear; their weights lie in state dicts as before.
    Raises ValueError, and changes nothing, where `sparsify` would, for options that do not go
    together, for weights that are not finite, and where no batch reaches a layer. An error that is
    raised later, for inputs that are not finite or a damp that is too small, leaves a dense model
    with some layers pruned: load its weights again.
    """
    _check_model(model)
    sparsity = Sparsity(selection=ROW) if sparsity is None else sparsity
    _check_method(method, sparsity)
    for name, flag in (("refit", refit), ("sequential", sequential)):
        if not isinstance(flag, bool):
            raise ValueError(f"{name}={flag!r}: give True or False")
    if not callable(forward):
        raise ValueError(f"forward={forward!r}: give a function that takes the model and a batch")
    if not isinstance(finished, FinishedLayers | None):
        raise ValueError(f"finished={finished!r}: give FinishedLayers({finished!r})")
    reads: Reads = "gram" if refit else method.reads
    data = _calibration(method, reads, calibration, forward, sequential)
    job = Job(model, method, data, reads, refit, sequential, finished, on_layer)
    sparsity = replace(sparsity, schedule=FROZEN)
    if finished is not None:
        finished.open(model, f"{method} {sparsity} refit={refit} sequential={sequential}")
    convs = replace_conv1d(model)
    try:
        sparsified = sparsify(model, sparsity, engine)
    except BaseException:
        put_back(model, convs)
        raise
    layers = sparse_linears(model)
    try:
        _check_weights(layers)
        done = job.run(layers)
    except BaseException:
        densify(model)
        put_back(model, convs)
        raise
    _keep_masks(layers)
    return PruneReport(tuple(done), sparsified)


def _keep_masks(layers: dict[str, SparseLinear]) -> None:
    """Have every layer keep its mask: pruning counts as the step before which masks were chosen, so
    that the next attach goes on with them."""
    for phase in {layer.phase for layer in layers.values()}:
        phase.load(
            {
                "phase": "sparse",
                "trained": "sparse",
                "step": 1,
                "masks_step": 0,
                "frozen": True,
                "checked": False,
            }
        )


def _check_model(model: nn.Module) -> None:
    check_module(model)
    for name, parameter in model.named_parameters():
        if is_sharded(parameter):
            raise ValueError(f"{name} is sharded: prune the model before fully_shard")
        if parameter.is_meta:
            raise ValueError(f"{name} is on the meta device: load the trained weights first")


def _check_weights(layers: dict[str, SparseLinear]) -> None:
    """Raise ValueError for NaN and infinity, which no mask could take away: 0 · NaN is NaN."""
    for name, layer in layers.items():
        if odd := int((~layer.weight.detach().isfinite()).sum()):
            raise ValueError(
                f"{name}.weight has {odd} values that are NaN or infinite: load weights of before "
                "the training diverged, or exclude the layer"
            )


def _check_method(method: Method, sparsity: Sparsity) -> None:
    if isinstance(method, type):
        raise ValueError(f"method={method.__name__}: give an instance, {method.__name__}()")
    if not isinstance(method, Method):
        raise ValueError(
            f"method={method!r}: give Magnitude(), WeightNorm(), Wanda() or SparseGPT()"
        )
    check_sparsity(sparsity)
    if all(part.weight is None for part in sparsity.rules):
        raise ValueError("sparsity: weight=None prunes nothing: give STE(), or leave weight out")
    for part in sparsity.rules:
        if part.activation is not None:
            raise ValueError(
                f"sparsity: activation={part.activation}: prune is of weights; leave it out"
            )
        if isinstance(part.weight, SSTE):
            raise ValueError("sparsity: S-STE multiplies by other values than are kept; use STE()")


def _calibration(
    method: Method,
    reads: Reads,
    batches: Iterable[Any] | None,
    forward: Forward,
    sequential: bool,
) -> Calibration | None:
    name = type(method).__name__
    if reads == "nothing":
        if batches is not None:
            raise ValueError(
                f"calibration: {name} looks at weights alone; leave it out, or give refit=True"
            )
        return None
    if batches is None:
        why = name if method.reads != "nothing" else "refit=True"
        raise ValueError(
            f"calibration=None: {why} reads the layers' inputs on calibration data; give batches, "
            "as a list or a DataLoader"
        )
    if isinstance(batches, Tensor | Mapping):
        what = "a tensor" if isinstance(batches, Tensor) else "a mapping"
        raise ValueError(f"calibration is {what}, one batch: give a list of them, as [batch]")
    several = hasattr(batches, "__iter__") or hasattr(batches, "__getitem__")
    if isinstance(batches, str) or not several:
        raise ValueError(f"calibration={batches!r}: give batches, as a list or a DataLoader")
    data = Calibration(batches, forward)
    if sequential and data.once:
        raise ValueError(
            "calibration is an iterator, which one pass uses up: give a list or a DataLoader, or "
            "sequential=False"
        )
    return data
