"""2:4 sparse training: weights and activations made sparse online.

    import sparsetrain as st
    report = st.sparsify(model, recipe="vit_b_24")   # before the optimizer; st.densify undoes it

Importing this needs torch alone; the Lightning callbacks and recipes import theirs when used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from torch import nn

from sparsetrain import ops
from sparsetrain.autograd import linear24
from sparsetrain.methods import SRSTE, SSTE, STE, Activation24
from sparsetrain.nn import (
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
from sparsetrain.nn import sparsify as _sparsify
from sparsetrain.patterns import NM
from sparsetrain.products import Engine
from sparsetrain.schedule import Schedule
from sparsetrain.select import Selection

if TYPE_CHECKING:
    from sparsetrain.lightning import SparsifyModel, SparsityMonitor

__version__ = "0.1.0"

__all__ = [
    "NM",
    "SRSTE",
    "SSTE",
    "STE",
    "Activation24",
    "Part",
    "Report",
    "Schedule",
    "Selection",
    "SparseLinear",
    "SparseMlp",
    "SparsifyModel",
    "Sparsity",
    "SparsityMonitor",
    "attach",
    "count_tokens",
    "densify",
    "density",
    "follow",
    "inspect",
    "linear24",
    "load_sparse_state",
    "ops",
    "packed_once",
    "set_sparse",
    "sparse_state",
    "sparsify",
    "update_masks",
]


def sparsify(
    model: nn.Module,
    sparsity: Sparsity | None = None,
    *,
    recipe: str | None = None,
    engine: Engine | Literal["auto"] = "auto",
    tokens: Mapping[str, int] | None = None,
) -> Report:
    """Make layers of `model` 2:4, in place, before its optimizer is made; say what became of each.

    Give one of `sparsity`, or the name of a `recipe` whose sparsity to use (needs hydra-core).
    See `sparsetrain.nn.sparsify` for engines and tokens, what is shared, and the errors.
    """
    from sparsetrain.recipe import resolve_sparsity

    return _sparsify(model, resolve_sparsity(sparsity, recipe), engine, tokens=tokens)


_GONE = {
    "decay_pruned_weights": "attach(model, optimizer, total_steps=…) decays, and chooses masks",
    "pack_weights": "each forward packs; packed_once(model) packs for several",
    "release_weights": "nothing is held between forwards",
}


def __getattr__(name: str) -> object:
    # Lightning takes seconds to import and is needed for these two alone.
    if name in ("SparsifyModel", "SparsityMonitor"):
        from sparsetrain import lightning

        return getattr(lightning, name)
    instead = f": {_GONE[name]}" if name in _GONE else ""
    raise AttributeError(f"module 'sparsetrain' has no attribute {name!r}{instead}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
