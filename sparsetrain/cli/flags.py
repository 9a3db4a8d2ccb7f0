"""Hydra's flags on the command line of `fit`."""

from __future__ import annotations

from pathlib import Path

from sparsetrain.cli.overrides import split_word
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
            raise ValueError(f"{name} is no flag of fit: {nearest(name, known)}")
        if name in _ALONE:
            flags.append(arg)
            continue
        if not equals and rest and not rest[0].startswith("-"):
            value = rest.pop(0)
        if name in _FOLDER:
            folders.append(_folder(name, value))
        else:
            flags += [name, value] if value else [name]
    if folders and any(split_word(word)[0] == "hydra.searchpath" for word in words):
        raise ValueError("--config-dir and hydra.searchpath= say the same: put all into the latter")
    return flags, [*words, f"hydra.searchpath=[{','.join(folders)}]"] if folders else words


def _folder(flag: str, value: str) -> str:
    """As Hydra's grammar takes it, whatever its characters are."""
    if not Path(value).is_dir() or not value:
        raise ValueError(f"{flag}={value}: no such folder")
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(f"file://{Path(value).resolve()}", Quote.single).with_quotes()
