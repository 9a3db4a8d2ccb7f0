"""`pattern=` of `prune` and what goes with it, as an option of configs/sparsity."""

from __future__ import annotations

import re
from typing import Any

from sparsetrain.recipe import nearest

_FLAGS = ("true", "false")
_PATTERNS = (
    ("frozen24", r"2:4"),
    ("frozen_block", r"block:(\d+)x(\d+)"),
    ("frozen_block24", r"block:(\d+)x(\d+)\+2:4"),
    ("frozen_vnm", r"vnm:(\d+):(\d+):(\d+)"),
    ("frozen_unstructured", r"unstructured"),
)
"""Options of configs/sparsity, and the words that mean them."""

_SIZES = {
    "frozen_block": ("pattern.rows", "pattern.columns"),
    "frozen_block24": ("pattern.block.rows", "pattern.block.columns"),
    "frozen_vnm": ("pattern.v", "pattern.n", "pattern.m"),
}
_SELECTED = ("frozen24", "frozen_block24")
_SHARES = {
    "frozen_block": "pattern.density",
    "frozen_block24": "pattern.block.density",
    "frozen_unstructured": "pattern.density",
}


def pattern_words(options: dict[str, str]) -> tuple[str, dict[str, Any]]:
    """The option of configs/sparsity that `pattern=` means, and what is set in it by key.

    Raises ValueError in one line for a pattern, density, balanced or selection that does not fit.
    """
    text = options.get("pattern", "2:4")
    found = next(((n, m) for n, form in _PATTERNS if (m := re.fullmatch(form, text))), None)
    if found is None:
        known = "2:4, block:64x64, block:64x64+2:4, vnm:64:2:8 (with other sizes) or unstructured"
        raise ValueError(f"pattern={text!r}: give {known}")
    name, match = found
    sizes, at = map(int, match.groups()), _SIZES.get(name, ())
    values: dict[str, Any] = dict(zip(at, sizes, strict=True))
    if name in _SHARES:
        values[_SHARES[name]] = _share(options, text)
    elif "density" in options:
        why = "two of four is always half" if name == "frozen24" else "its density is n / m"
        raise ValueError(f"density={options['density']} with pattern={text}: {why}; leave it out")
    if at and name != "frozen_vnm":
        values[at[0].replace("rows", "balanced")] = flag(options, "balanced", "true")
    elif "balanced" in options:
        raise ValueError(
            f"balanced={options['balanced']} with pattern={text}: it is of blocks; leave it out"
        )
    if name in _SELECTED:
        solver = options.get("selection", "row")
        if solver not in ("row", "exact"):
            raise ValueError(f"selection={solver!r}: {nearest(solver, ('row', 'exact'))}")
        values["selection.solver"] = solver
    elif "selection" in options:
        raise ValueError(
            f"selection={options['selection']} with pattern={text}: it is of 2:4; leave it out"
        )
    return name, values


def _share(options: dict[str, str], pattern: str) -> float:
    text = options.get("density")
    what = "blocks" if pattern.startswith("block") else "weights"
    fix = f"the share of {what} kept, as density=0.2"
    if text is None:
        raise ValueError(f"density= is missing: pattern={pattern} wants {fix}")
    try:
        density = float(text)
    except ValueError:
        density = 0.0
    if not 0 < density <= 1:
        raise ValueError(f"density={text}: give {fix}, above 0 and at most 1")
    return density


def flag(options: dict[str, str], key: str, default: str) -> bool:
    """A word that is true or false. Raises ValueError for others."""
    value = options.get(key, default)
    if value not in _FLAGS:
        raise ValueError(f"{key}={value!r}: give true or false")
    return value == "true"
