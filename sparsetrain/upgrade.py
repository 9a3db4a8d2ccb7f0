"""What files of before say, as it is written today.

Format 1 had a `rule` of the weights' method and of the activation: a `selection` today. Parquet's
`val_split` is every folder's `val_fraction`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparsetrain.select import RULES, Selection

_HOMES = {
    "sparsity.weight.rule": "sparsity.selection",
    "sparsity.activation.rule": "sparsity.activation.selection",
}
_DATA_KEYS = {"val_split": "val_fraction"}


def upgraded_sparsity(sparsity: Mapping[str, Any]) -> dict[str, Any]:
    """The `sparsity` node of a config of format 1, plain values, as it is written today; one of
    today as it is. Raises ValueError for an unknown rule."""
    new = dict(sparsity)
    for name in ("weight", "activation"):
        node = new.get(name)
        if isinstance(node, Mapping) and "rule" in node:
            new[name] = {key: value for key, value in node.items() if key != "rule"}
            home = new if name == "weight" else new[name]
            chosen = Selection.of_rule(node["rule"])
            home["selection"] = {
                "_target_": "sparsetrain.Selection",
                "solver": chosen.solver,
                "score": chosen.score,
            }
    return new


def upgraded_data(data: Mapping[str, Any]) -> dict[str, Any]:
    """The `data` node of a config of before, plain values, as it is written today."""
    return {_DATA_KEYS.get(key, key): value for key, value in data.items()}


def upgraded_words(word: str) -> tuple[str, ...]:
    """A key=value of format 1 as it is written today; one of today, or of no known rule, as is."""
    key, _, rule = word.partition("=")
    group, _, name = key.lstrip("+").partition(".")
    if group == "data" and name in _DATA_KEYS:
        return (f"data.{_DATA_KEYS[name]}={rule}",)
    home = _HOMES.get(key.lstrip("+"))
    for known in RULES:
        if home is not None and rule == known:
            chosen = Selection.of_rule(known)
            score = () if chosen.score == "magnitude" else (f"{home}.score={chosen.score}",)
            return f"{home}.solver={chosen.solver}", *score
    return (word,)


def upgraded_layers(saved: dict[str, Any], step: int) -> dict[str, dict[str, Any]]:
    """The state of each layer in a checkpoint that was saved at optimizer step `step`. Format 1
    saved the phase once for all, and no step of the layers."""
    if "masks_step" not in saved:
        return saved["layers"]
    phase = {
        "phase": saved["phase"] or "sparse",
        "trained": saved["phase"] or "sparse",
        "step": step,
        "masks_step": saved["masks_step"],
        "frozen": True,  # until the next step: evaluation had the masks of training
        "checked": False,
    }
    return {
        name: {key: value for key, value in layer.items() if key != "sparse"} | phase
        for name, layer in saved["layers"].items()
    }
