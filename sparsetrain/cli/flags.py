"""Hydra's flags on the command line of `fit`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sparsetrain.cli.known import base_config, keys_of
from sparsetrain.cli.overrides import split_word
from sparsetrain.cli.synonyms import key_for
from sparsetrain.recipe import nearest

_ALONE = (
    "--multirun",
    "-m",
    "--run",
    "-r",
    "--resolve",
    "--hydra-help",
    "--shell-completion",
    "-sc",
)
_WITH_VALUE = ("--cfg", "-c", "--package", "-p", "--info", "-i")
_PARTS = ("job", "hydra", "all")
_TOLD = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
_CHOICES = {"--cfg": _PARTS, "-c": _PARTS, "--info": (*_TOLD, ""), "-i": (*_TOLD, "")}
_COMMON = {"trainer": "default", "optimizer": "adamw", "data": "imagenet", "model": "vit_b"}
_FOLDER = ("--config-dir", "-cd")


def split_flags(args: list[str]) -> tuple[list[str], list[str]]:
    """Hydra's flags with their values, and the override words.

    `--config-dir=FOLDER` becomes the word `hydra.searchpath=[…]`, so that what is checked and what
    runs are composed alike. Raises ValueError for any other flag: `--config-path` and
    `--config-name` replace the whole config, and `--experimental-rerun` unpickles a file.
    """
    flags, words, folders = [], [], []
    rest = list(args)
    while rest:
        arg = rest.pop(0)
        if not arg.startswith("-"):
            words.append(arg)
            continue
        name, equals, value = arg.partition("=")
        known = (*_ALONE, *_WITH_VALUE, *_FOLDER)
        if name not in known:
            raise ValueError(f"{name} is no flag of fit: {_instead(name, value, known)}")
        if name in _ALONE:
            flags.append(arg)
            continue
        if not equals and rest and not rest[0].startswith("-") and "=" not in rest[0]:
            value = rest.pop(0)
        choices = _CHOICES.get(name, (value,))
        if value not in choices:
            known = ", ".join(filter(None, choices))
            raise ValueError(f"{f'{name} {value}'.strip()}: give one of {known}")
        if name in _FOLDER:
            folders.append(_folder(name, value))
        else:
            flags += [name, value] if value else [name]
    if folders and any(split_word(word)[0] == "hydra.searchpath" for word in words):
        raise ValueError("--config-dir and hydra.searchpath= say the same: put all into the latter")
    return flags, [*words, f"hydra.searchpath=[{','.join(folders)}]"] if folders else words


def _instead(flag: str, value: str, known: Sequence[str]) -> str:
    """What to write for a flag that is none: a key of the config without its dashes, say."""
    bare = flag.lstrip("-").replace("-", "_")
    config = base_config(_COMMON)
    top = [key for key in ("recipe", *config) if key not in _COMMON]
    keys = (*top, *keys_of({group: config[group] for group in _COMMON}))
    same = [key for key in keys if key.rpartition(".")[2] == bare]
    near = same or [key for key in keys if key.endswith(f"_{bare}")]
    if not near and (other := key_for(bare, value)):
        return f"write {other}"
    if not near:
        return f"values are given as key=value; {nearest(flag, known)}"
    return f"write {near[0]}={value or '…'}"


def _folder(flag: str, value: str) -> str:
    """As Hydra's grammar takes it, whatever its characters are."""
    if not Path(value).is_dir() or not value:
        raise ValueError(f"{flag}={value}: no such folder")
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(f"file://{Path(value).resolve()}", Quote.single).with_quotes()
