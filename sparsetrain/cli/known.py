"""Which keys a config may have, at any depth: those of configs/, and what its targets take.

A recipe file is merged into the config without a look at its keys, so one that is misspelt would
be read by nobody.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sparsetrain.cli.ranges import of_whole
from sparsetrain.recipe import data_folder
from sparsetrain.targets import TARGETS

Node = dict[str, Any]

FILES = "the recipe, or a folder of configs"
"""Where a config comes from whose targets are not sparsetrain's own."""

PARTS = ("callbacks", "logger")
"""Groups whose nodes are made one by one: a recipe may add some."""

_OPEN = ("model.options", "sparsity.parts")  # timm's arguments, and names of the user's own
_OFF = ("sparsity.weight", "sparsity.activation", "model.options")  # nodes that null leaves out


class Odd(NamedTuple):
    """Something in a config that nobody reads: a key, or a value where keys should be.

    known: the keys that would be read there, with their whole path; none where the value is odd.
    """

    key: str
    value: Any
    known: tuple[str, ...]


def groups() -> list[str]:
    """The groups of configs/."""
    return sorted(path.name for path in data_folder("configs").iterdir() if path.is_dir())


def base_config(choices: Mapping[str, str]) -> Node:
    """The config without a recipe: config.yaml, and of each group the option that is chosen."""
    folder = data_folder("configs")
    config = _read(folder / "config.yaml")
    config.pop("hydra")
    for group in groups():
        option = choices.get(group)
        if group != "demo" and option is not None:
            config[group] = _option(folder / group, option)
    return config


def keys_of(node: Node, prefix: str = "") -> Iterator[str]:
    """Every key below, with its whole path."""
    for key, value in node.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from keys_of(value, f"{prefix}{key}.")


def odd_keys(config: Node, base: Node, path: str = "") -> Iterator[Odd]:
    """What of a composed config nobody reads, compared with `base`.

    Targets must have been checked: those of the package are imported where a key is not in `base`.
    """
    takes: Collection[str] | None = ()
    prefix = f"{path}." if path else ""
    for key, value in config.items():
        inside, old = f"{prefix}{key}", base.get(key)
        known = key in base or key.startswith("_") or path in (*_OPEN, *PARTS)
        if not known:
            takes = takes or parameters(config.get("_target_"))
            known = takes is None or key in takes
        if not known:
            near = (*keys_of(base, prefix), *(f"{prefix}{name}" for name in takes or ()))
            yield Odd(inside, value, near or (path,))
        elif isinstance(value, dict):
            yield from odd_keys(value, old if isinstance(old, dict) else {}, inside)
        elif isinstance(old, dict) and not (value is None and _may_be_off(inside)):
            yield Odd(inside, value, ())


def missing_keys(config: Node, base: Node, path: str = "") -> Iterator[str]:
    """What was taken out of a composed config that a run reads: keys of the whole config, and those
    of the package's targets that have no default."""
    for key, old in base.items():
        inside = f"{path}.{key}" if path else key
        if key not in config:
            if not path or key in _required(config.get("_target_")):
                yield inside
        elif isinstance(old, dict) and isinstance(config[key], dict):
            yield from missing_keys(config[key], old, inside)


def left_over(config: Node, base: Node, path: str = "") -> Iterator[tuple[str, str]]:
    """(key, target) of what the target of `base` took and the package's own that a config has in
    its place does not."""
    target = config.get("_target_")
    takes = parameters(target) if target != base.get("_target_") else None
    for key, value in config.items():
        inside = f"{path}.{key}" if path else key
        if takes is not None and key in base and not key.startswith("_") and key not in takes:
            yield inside, str(target)
        elif isinstance(value, dict) and isinstance(base.get(key), dict):
            yield from left_over(value, base[key], inside)


def _may_be_off(path: str) -> bool:
    return of_whole(path) in _OFF or (path.partition(".")[0] in PARTS and "." in path)


def parameters(target: Any) -> Collection[str] | None:
    """What a target takes; None for one that is not of the package, which will say so itself."""
    if target is None:
        return ()
    if target not in TARGETS:
        return None
    from hydra.utils import get_object

    return tuple(inspect.signature(get_object(target)).parameters)


def _required(target: Any) -> Collection[str]:
    """What a target of the package takes that has no default; nothing of others."""
    if target not in TARGETS:
        return ()
    from hydra.utils import get_object

    takes = inspect.signature(get_object(target)).parameters
    return tuple(name for name, each in takes.items() if each.default is each.empty)


def _option(folder: Path, option: str) -> Node:
    node = _read(folder / f"{option}.yaml")
    merged: Node = {}
    for other in node.pop("defaults", []):
        if other != "_self_":
            merged |= _option(folder, other)
    return merged | node


def _read(path: Path) -> Node:
    import yaml

    node = yaml.safe_load(path.read_text("utf-8"))
    if path.name == "config.yaml":
        node.pop("defaults")
    return node
