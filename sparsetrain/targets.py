"""What a config may name as `_target_`: Hydra calls whatever stands there, at any depth.

Checkpoints, recipe files and folders of configs come from anywhere, so only the exact names of
TARGETS are made from them. Prefixes would not do: names are looked up attribute by attribute, and
`sparsetrain.native.find.os.system` is found. Further names come from the command line alone.
"""

from __future__ import annotations

import reprlib
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omegaconf import DictConfig

TARGETS = frozenset(
    (
        "pytorch_lightning.Trainer",
        "pytorch_lightning.callbacks.EMAWeightAveraging",  # in checkpoints before `EMA`
        "pytorch_lightning.callbacks.ModelCheckpoint",
        "pytorch_lightning.loggers.CSVLogger",
        "sparsetrain.Activation24",
        "sparsetrain.ActivationDropout24",
        "sparsetrain.Block",
        "sparsetrain.Combined",
        "sparsetrain.FP8",
        "sparsetrain.LearnedScores",
        "sparsetrain.Movement",
        "sparsetrain.NM",
        "sparsetrain.Part",
        "sparsetrain.RigL",
        "sparsetrain.SRSTE",
        "sparsetrain.SSTE",
        "sparsetrain.STE",
        "sparsetrain.STEP",
        "sparsetrain.Schedule",
        "sparsetrain.Selection",
        "sparsetrain.Sparsity",
        "sparsetrain.Unstructured",
        "sparsetrain.VNM",
        "sparsetrain.lightning.AdamW",
        "sparsetrain.lightning.EMA",
        "sparsetrain.lightning.MaskSnapshots",
        "sparsetrain.lightning.Mix",
        "sparsetrain.lightning.SaveLast",
        "sparsetrain.lightning.SaveOnInterrupt",
        "sparsetrain.lightning.SparsityMonitor",
        "sparsetrain.lightning.StepSeed",
        "sparsetrain.lightning.StopOnNonFinite",
        "sparsetrain.lightning.build_network",
        "sparsetrain.lightning.data.Augment",
        "sparsetrain.lightning.data.Digits",
        "sparsetrain.lightning.data.HuggingFace",
        "sparsetrain.lightning.data.ImageNet",
        "sparsetrain.lightning.data.Parquet",
        "sparsetrain.lightning.data.Synthetic",
        "sparsetrain.lightning.progress",
        "sparsetrain.lightning.wandb_logger",
    )
)
"""Every target of configs/ and recipes/."""

_LINE = reprlib.Repr()
_LINE.maxstring = 300
"""Writes out names, and cuts what is long."""

_DEEPEST = 32  # levels of a config; ours has 4, and a pickled list can hold itself
_MOST = 100_000  # values of a config; a few lists that hold each other many times never end


def check_size(values: Any, where: str) -> None:
    """Raise ValueError in one line for more or deeper nested values than any config has, each
    counted as often as it is held: YAML aliases and pickled lists can repeat a few without end."""
    for _ in _walk(values, where):
        pass


def check_targets(values: Any, where: str, allowed: Collection[str] = ()) -> None:
    """Raise ValueError in one line for a `_target_` that is neither in TARGETS nor `allowed`.

    values: dicts, lists and plain values, interpolations as text. where: what they were read from.
    """
    for path, key, value in _walk(values, where):
        if key != "_target_" or (isinstance(value, str) and value in {*TARGETS, *allowed}):
            continue
        fix = "write its name out"
        if isinstance(value, str) and "${" not in value:
            fix = f"if you trust it, add allow_targets=[{value}] to the command line"
        raise ValueError(
            f"{where}: {path}={_LINE.repr(value)} is none of sparsetrain's own targets, and "
            f"calling it could run any code: {fix}"
        )


def check_plain(values: Any, where: str) -> None:
    """Raise ValueError in one line unless values are dicts, lists, numbers, text and None, without
    an interpolation, which could still become anything."""
    for path, _, value in _walk(values, where):
        if isinstance(value, str) and "${" in value:
            raise ValueError(
                f"{where}: {path}={_LINE.repr(value)} holds an interpolation where values are "
                "resolved: write the value out"
            )
        if not isinstance(value, dict | list | tuple | str | int | float | None):
            raise ValueError(
                f"{where}: {path} is a {type(value).__name__}: a config holds dicts, lists, "
                "numbers and text"
            )


_DATA = frozenset(name for name in TARGETS if name.startswith("sparsetrain.lightning.data."))
_SPARSITY = frozenset(name for name in TARGETS if name.rpartition(".")[0] == "sparsetrain")
_PLACES = {
    "model._target_": frozenset(("sparsetrain.lightning.build_network",)),
    "data._target_": _DATA - {"sparsetrain.lightning.data.Augment"},
    "data.augment._target_": frozenset(("sparsetrain.lightning.data.Augment",)),
    "optimizer._target_": frozenset(("sparsetrain.lightning.AdamW",)),
    "mix._target_": frozenset(("sparsetrain.lightning.Mix",)),
    "trainer._target_": frozenset(("pytorch_lightning.Trainer",)),
}
"""What a checkpoint may name where: its model is made by nothing else, and inside nothing is."""

_WORDS = ("_args_", "_partial_", "_recursive_", "_convert_")
"""Hydra's own, which pass arguments past what is looked at here."""


def check_places(values: dict[str, Any], where: str, allowed: Collection[str] = ()) -> None:
    """Raise ValueError in one line where the nodes that are made of a checkpoint's config name a
    target that does not belong there, or say with Hydra's words how to call it."""
    made = {path.partition(".")[0] for path in _PLACES} | {"sparsity"}
    for path, key, value in _walk({name: values.get(name) for name in made}, where):
        right = _SPARSITY if path.startswith("sparsity.") else _PLACES.get(path, frozenset())
        named = isinstance(value, str) and value in {*right, *allowed}
        if key in _WORDS or (key == "_target_" and not named):
            raise ValueError(f"{where}: {path}={_LINE.repr(value)} has no place there")


def checked(
    config: DictConfig, where: str, allowed: Collection[str] = (), parts: Collection[str] = ()
) -> DictConfig:
    """The config resolved, so that what was checked is what is made. Raises as `check_targets`.

    parts: the keys that are kept, all without any.
    """
    from omegaconf import DictConfig, OmegaConf

    keys = parts or list(config)
    # Before anything is resolved too: the line then names the key as it was written.
    check_targets(OmegaConf.to_container(config), where, allowed)
    values = {}
    for key in keys:
        node = config[key]
        is_node = OmegaConf.is_config(node)
        values[key] = OmegaConf.to_container(node, resolve=True) if is_node else node
    check_plain(values, where)
    check_targets(values, where, allowed)
    resolved = OmegaConf.create(values)
    assert isinstance(resolved, DictConfig)
    OmegaConf.set_struct(resolved, True)
    return resolved


def _walk(values: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    """(path, key, value) of everything inside, parents first."""
    for number, each in enumerate(_inside(values, where, "", 0)):
        if number == _MOST:
            raise ValueError(f"{where} holds more than {_MOST:,} values: no config does")
        yield each


def _inside(values: Any, where: str, path: str, depth: int) -> Iterator[tuple[str, Any, Any]]:
    if depth > _DEEPEST:
        raise ValueError(f"{where}: {path[:60]}… is nested more than {_DEEPEST} deep: no config is")
    if isinstance(values, dict):
        items = [
            (f"{path}.{key}" if path else str(key), key, value) for key, value in values.items()
        ]
    elif isinstance(values, list | tuple):
        items = [(f"{path}[{i}]", i, value) for i, value in enumerate(values)]
    else:
        return
    for inside, key, value in items:
        yield inside, key, value
        yield from _inside(value, where, inside, depth + 1)
