"""The key=value words of a command line, checked before anything runs."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from sparsetrain.cli.overrides import (
    NO_DEMO,
    parsed,
    split_word,
    stored_recipes,
    take,
    values_of,
)
from sparsetrain.recipe import compose, data_folder, nearest, recipe_names
from sparsetrain.targets import check_targets

if TYPE_CHECKING:
    from omegaconf import DictConfig

_PARTS = ("callbacks", "logger")  # groups whose nodes are made one by one


FILES = "the recipe, or a folder of configs"
"""Where a config comes from whose targets are not sparsetrain's own."""


def check(words: list[str], allowed: Collection[str] = ()) -> None:
    """Raise ValueError in one line for an unknown recipe, group option, or key, and for a target
    that is neither sparsetrain's own nor `allowed`."""
    from omegaconf import OmegaConf

    value, _ = take(words, "recipe")
    if not value:
        raise ValueError(f"recipe= is missing: choose one of {', '.join(recipe_names())}")
    known = sorted({*recipe_names(), *stored_recipes()})
    for name in value.split(","):
        if name not in known:
            raise ValueError(f"recipe={name!r} is unknown: {nearest(name, known)}")
    for word in words:
        if "=" not in word and word[0] != "~":
            raise ValueError(f"{word!r} is not of the form key=value")
        _check_group(word)
    plain = list(_first_of_sweeps(words))
    chosen = [word for word in plain if split_word(word)[0] in _groups()]
    before = compose(chosen)
    keys = sorted(_keys(before))
    for word in plain:
        key, _ = split_word(word)
        if word[0] in "+~" or key in _groups() or key.partition(".")[0] == "hydra":
            continue
        if key not in keys:
            raise ValueError(f"{key}= is no key of this config: {_instead(word, chosen, keys)}")
    _check_numbers(words, before)
    config = compose(plain)
    check_targets(OmegaConf.to_container(config), FILES, allowed)
    _check_parts(config, chosen)


def _groups() -> set[str]:
    return {"recipe", *(path.name for path in data_folder("configs").iterdir() if path.is_dir())}


def _options(group: str) -> list[str]:
    return sorted(path.stem for path in (data_folder("configs") / group).glob("*.yaml"))


def _check_group(word: str) -> None:
    key, value = split_word(word)
    if key == "recipe" or key not in _groups() or word == NO_DEMO:
        return
    options = _options(key)
    for name in value.strip("[]").split(","):
        if name in ("", "null"):
            part = f"; {key}.NAME=null leaves out one part of it" if key in _PARTS else ""
            raise ValueError(f"{word}: the group cannot be left out, {nearest('', options)}{part}")
        if name not in options:
            raise ValueError(f"{key}={name!r} is unknown: {nearest(name, options)}")


def _instead(word: str, chosen: list[str], keys: list[str]) -> str:
    """What to write for a key that is not there."""
    key, _ = split_word(word)
    options = _options_with(key, chosen)
    if options:
        return f"it comes with {' or '.join(options)}"
    group, dot, _ = key.partition(".")
    # What is added outside of the nodes that there are is read by nobody.
    added = f" (or +{word})" if dot and group in keys else ""
    return nearest(key, keys) + added


def _options_with(key: str, chosen: list[str]) -> list[str]:
    """'group=option' for each option of the key's group, not the chosen one, that has the key."""
    group = key.partition(".")[0]
    if group == "recipe" or group not in _groups():
        return []
    others = [word for word in chosen if split_word(word)[0] != group]
    words = [f"{group}={option}" for option in _options(group)]
    return [word for word in words if key in _keys(compose([*others, word]))]


def _check_numbers(words: list[str], before: DictConfig) -> None:
    """Raise ValueError for text where the config has a number, and anywhere in the optimizer, which
    takes no null for a number either.

    before: the config without the keys that the words set.
    """
    from omegaconf import OmegaConf

    optimizer = [(f"optimizer.{name}", value) for name, value in before.optimizer.items()]
    for key, value in (*optimizer, *values_of(words)):
        old = OmegaConf.select(before, key, throw_on_resolution_failure=False)
        is_number = isinstance(old, int | float) and not isinstance(old, bool)
        of_optimizer = key.startswith("optimizer.") and key != "optimizer._target_"
        is_text = isinstance(value, str) and "${" not in value and (is_number or of_optimizer)
        if is_text or (value is None and old is not None and of_optimizer):
            example = f", as {old} is" if old is not None and not isinstance(old, str) else ""
            raise ValueError(f"{key}={'null' if value is None else value}: give a number{example}")


def _check_parts(config: DictConfig, chosen: list[str]) -> None:
    """Raise ValueError for a callback or a logger that nothing can be made of."""
    from omegaconf import DictConfig

    for group in _PARTS:
        for name, node in config[group].items():
            if node is None or (isinstance(node, DictConfig) and "_target_" in node):
                continue
            options = _options_with(f"{group}.{name}._target_", chosen)
            fix = f"choose {' or '.join(options)}" if options else "give its class as _target_"
            raise ValueError(f"{group}.{name} has no _target_, so nothing can be made of it: {fix}")


def _keys(config: Any, prefix: str = "") -> Iterator[str]:
    from omegaconf import DictConfig

    for key in config:
        yield f"{prefix}{key}"
        node = config._get_node(key)
        if isinstance(node, DictConfig) and not node._is_none():
            yield from _keys(node, f"{prefix}{key}.")


def _first_of_sweeps(words: list[str]) -> Iterator[str]:
    for override in parsed(words):
        if override.is_sweep_override():
            first = next(iter(override.sweep_string_iterator()))
            yield f"{override.get_key_element()}={first}"
        else:
            yield str(override.input_line)
