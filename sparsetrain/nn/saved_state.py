"""Is a saved sparse state one that its model could have saved? Asked before any of it is used.

Kernels take a mask's bits as they are: one that is not 2:4 would give products of something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import torch
from torch import Tensor, nn

from sparsetrain.methods import SSTE
from sparsetrain.nn.linear import SparseLinear
from sparsetrain.patterns import NM, Scored
from sparsetrain.reference.masks24 import unpack_bits
from sparsetrain.schedule import Phase as PhaseName
from sparsetrain.select import Rule

_PHASE = {
    "phase": str,
    "trained": str,
    "step": int,
    "masks_step": int,
    "frozen": bool,
    "checked": bool,
}
_FIX = "use the sparsity and the model it was trained with, or leave the state out"


def check_state(modules: Mapping[str, nn.Module], state: Any) -> None:
    """Raise ValueError naming the layer unless `state` is as `sparse_state` gives it.

    modules: SparseLinear, with a mask (bits, uint8 [O, ceil(I/8)]) and β (float32 [1], S-STE
    alone) each, and scores where the method keeps some; of other modules only the phase is saved.
    """
    if not isinstance(state, Mapping):
        raise ValueError(f"the sparse state is a {type(state).__name__}: give that of sparse_state")
    if modules.keys() != state.keys():
        differ = sorted(map(str, modules.keys() ^ state.keys()))
        raise ValueError(
            f"the checkpoint's sparse layers are not the model's; they differ in {differ[:5]} "
            f"({len(differ)} in all): use the sparsity it was trained with"
        )
    for name, module in modules.items():
        saved = state[name]
        keys = {*_PHASE, "mask", "scale"} if isinstance(module, SparseLinear) else {*_PHASE}
        scored = isinstance(module, SparseLinear) and module.method.looks(sparse=True, due=True)
        known = isinstance(saved, Mapping) and saved.keys() - ({"scores"} if scored else set())
        if known != keys:
            found = sorted(map(str, saved)) if isinstance(saved, Mapping) else saved
            raise ValueError(f"{name}: its saved state has {found}, not {sorted(keys)}: {_FIX}")
        for key, kind in _PHASE.items():
            if type(saved[key]) is not kind:
                raise ValueError(f"{name}: {key}={saved[key]!r} is no {kind.__name__}: {_FIX}")
        for key in ("phase", "trained"):
            if saved[key] not in get_args(PhaseName):
                raise ValueError(f"{name}: {key}={saved[key]!r} is none there is: {_FIX}")
        if isinstance(module, SparseLinear):
            _check_mask(name, module, saved["mask"])
            _check_scale(name, module, saved["scale"], saved["phase"] == "sparse")
            _check_scores(name, module, saved.get("scores"))


def _check_mask(name: str, layer: SparseLinear, mask: Any) -> None:
    """None is a mask that follows the weight."""
    if mask is None:
        return
    rows, columns = layer.out_features, layer.in_features
    mask = _dense(mask, torch.uint8, (rows, (columns + 7) // 8), f"{name}: its saved mask is")
    mask_RC = unpack_bits(mask, 8 * mask.shape[1])
    if mask_RC[:, columns:].any():
        raise ValueError(f"{name}: its saved mask has bits behind column {columns}: {_FIX}")
    mask_RC = mask_RC[:, :columns]
    if isinstance(layer.pattern, NM):
        wrong, of = _why_not_24(mask_RC, layer.selection.rule), f"selection={layer.selection}"
    else:
        wrong, of = layer.pattern.why_not(mask_RC), f"pattern={layer.pattern}"
    if wrong:
        raise ValueError(f"{name}: its saved mask {wrong}, as {of}: {_FIX}")


def _why_not_24(mask_RC: Tensor, rule: Rule) -> str:
    """Empty where the mask is one that the rule can choose.

    Each keeps two of every four in a row, and all but `row` two of every four in a column too;
    `greedy` may keep fewer. Both sizes of a sparse layer are multiples of four.
    """
    along_rows = mask_RC.unflatten(1, (-1, 4)).sum(2)
    along_columns = mask_RC.unflatten(0, (-1, 4)).sum(1)
    for kept, along in ((along_rows, "rows"), (along_columns, "columns")):
        if along == "columns" and rule == "row":
            continue
        if ((kept > 2) if rule == "greedy" else (kept != 2)).any():
            return f"does not keep two of every four along {along}"
    return ""


def _check_scale(name: str, layer: SparseLinear, scale: Any, sparse: bool) -> None:
    if not isinstance(layer.method, SSTE):
        if scale is not None:
            raise ValueError(f"{name}: its saved state has β, which only S-STE has: {_FIX}")
        return
    # A model that was converted on the meta device has none before its sparse phase.
    if scale is None and not sparse:
        return
    scale = _dense(scale, torch.float32, (1,), f"{name}: β of S-STE is saved as")
    if not (scale.isfinite() & (scale > 0)).item():
        raise ValueError(
            f"{name}: β of S-STE is saved as {scale.item():g}, which is not finite and above 0: "
            f"{_FIX}"
        )


def _check_scores(name: str, layer: SparseLinear, scores: Any) -> None:
    """None before a first gradient."""
    if scores is None:
        return
    assert isinstance(layer.pattern, Scored), "its method keeps scores"
    units = layer.pattern.units(torch.empty(layer.weight.shape, device="meta"))
    _dense(scores, torch.float32, tuple(units.shape), f"{name}: its saved scores are")


def _dense(value: Any, dtype: torch.dtype, shape: tuple[int, ...], what: str) -> Tensor:
    """The value; ValueError unless it is a strided tensor of that dtype and shape."""
    found = "None" if value is None else f"a {type(value).__name__}"
    if isinstance(value, Tensor):
        strided = value.layout == torch.strided and not value.is_meta
        if strided and (value.dtype, value.shape) == (dtype, shape):
            return value
        found = f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    wanted = f"{str(dtype).removeprefix('torch.')} {list(shape)}"
    raise ValueError(f"{what} {found}, not {wanted}: {_FIX}")
