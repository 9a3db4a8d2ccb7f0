"""2:4 sparse training: weights and activations made sparse online.

    import sparsetrain as st
    report = st.sparsify(model, recipe="vit_b_24")   # before the optimizer; st.densify undoes it

Needs torch alone; the Lightning callbacks and recipes import theirs when used. Names are imported
when they are asked for, so that `python -m sparsetrain --help` does not wait seconds for torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import nn

    from sparsetrain import ops
    from sparsetrain.autograd import linear24
    from sparsetrain.export import check_tensorrt, load_packed, load_weights, save_pretrained
    from sparsetrain.inference import quantize
    from sparsetrain.lightning import SparsifyModel, SparsityMonitor
    from sparsetrain.methods import (
        SRSTE,
        SSTE,
        STE,
        STEP,
        Activation24,
        ActivationDropout24,
        LearnedScores,
        Movement,
        RigL,
    )
    from sparsetrain.nn import (
        Dropout24,
        Part,
        Report,
        SparseLinear,
        SparseMlp,
        Sparsity,
        attach,
        count_tokens,
        densify,
        density,
        follow,
        inspect,
        load_sparse_state,
        packed_once,
        set_sparse,
        sparse_state,
        update_masks,
    )
    from sparsetrain.patterns import NM, VNM, Block, Combined, Unstructured
    from sparsetrain.permutation import permute
    from sparsetrain.products import FP8, Engine
    from sparsetrain.pruning import FinishedLayers, Magnitude, SparseGPT, Wanda, WeightNorm, prune
    from sparsetrain.schedule import Schedule
    from sparsetrain.select import Selection

__version__ = "0.1.0"

__all__ = [
    "FP8",
    "NM",
    "SRSTE",
    "SSTE",
    "STE",
    "STEP",
    "VNM",
    "Activation24",
    "ActivationDropout24",
    "Block",
    "Combined",
    "Dropout24",
    "FinishedLayers",
    "LearnedScores",
    "Magnitude",
    "Movement",
    "Part",
    "Report",
    "RigL",
    "Schedule",
    "Selection",
    "SparseGPT",
    "SparseLinear",
    "SparseMlp",
    "SparsifyModel",
    "Sparsity",
    "SparsityMonitor",
    "Unstructured",
    "Wanda",
    "WeightNorm",
    "attach",
    "check_tensorrt",
    "count_tokens",
    "densify",
    "density",
    "follow",
    "inspect",
    "linear24",
    "load_packed",
    "load_sparse_state",
    "load_weights",
    "ops",
    "packed_once",
    "permute",
    "prune",
    "quantize",
    "save_pretrained",
    "set_sparse",
    "sparse_state",
    "sparsify",
    "update_masks",
]


_HOMES = {
    "autograd": ("linear24",),
    "export": ("check_tensorrt", "load_packed", "load_weights", "save_pretrained"),
    "inference": ("quantize",),
    "lightning": ("SparsifyModel", "SparsityMonitor"),
    "methods": (
        "SRSTE",
        "SSTE",
        "STE",
        "STEP",
        "Activation24",
        "ActivationDropout24",
        "LearnedScores",
        "Movement",
        "RigL",
    ),
    "nn": (
        "Dropout24",
        "Part",
        "Report",
        "SparseLinear",
        "SparseMlp",
        "Sparsity",
        "attach",
        "count_tokens",
        "densify",
        "density",
        "follow",
        "inspect",
        "load_sparse_state",
        "packed_once",
        "set_sparse",
        "sparse_state",
        "update_masks",
    ),
    "pruning": ("FinishedLayers", "Magnitude", "SparseGPT", "Wanda", "WeightNorm", "prune"),
    "patterns": ("NM", "VNM", "Block", "Combined", "Unstructured"),
    "permutation": ("permute",),
    "products": ("FP8",),
    "schedule": ("Schedule",),
    "select": ("Selection",),
}
"""The part that each name is imported from."""

_PARTS = (*_HOMES, "native", "ops", "recipe", "reference")


def sparsify(
    model: nn.Module,
    sparsity: Sparsity | None = None,
    *,
    recipe: str | None = None,
    engine: Engine | Literal["auto"] = "auto",
    tokens: Mapping[str, int] | None = None,
) -> Report:
    """Make layers of `model` 2:4, in place, before its optimizer is made; report each layer.

    Give one of `sparsity`, or the name of a `recipe` whose sparsity to use (needs hydra-core).
    See `sparsetrain.nn.sparsify` for engines and tokens, what is shared, and the errors.
    """
    from sparsetrain.nn import sparsify as sparsify_
    from sparsetrain.recipe import resolve_sparsity

    return sparsify_(model, resolve_sparsity(sparsity, recipe), engine, tokens=tokens)


_GONE = {
    "decay_pruned_weights": "attach(model, optimizer, total_steps=…) decays, and chooses masks",
    "pack_weights": "each forward packs; packed_once(model) packs for several",
    "release_weights": "nothing is held between forwards",
}


def __getattr__(name: str) -> object:
    if name in _PARTS:
        return import_module(f"sparsetrain.{name}")
    for part, names in _HOMES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(f"sparsetrain.{part}"), name)
            return value
    instead = f": {_GONE[name]}" if name in _GONE else ""
    raise AttributeError(f"module 'sparsetrain' has no attribute {name!r}{instead}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
