"""Words of a command line one by one, and what its recipe builds on: whether they exist."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsetrain.cli.known import PARTS, groups
from sparsetrain.cli.overrides import NO_DEMO, check_form, split_word, stored_recipes, take
from sparsetrain.cli.synonyms import option_for
from sparsetrain.recipe import data_folder, nearest, recipe_names

if TYPE_CHECKING:
    from omegaconf import DictConfig


def check_words(words: list[str]) -> None:
    """Raise ValueError in one line for a recipe, a group's option or a form that there is not."""
    value, _ = take(words, "recipe")
    known = sorted({*recipe_names(), *stored_recipes()})
    if not value:
        raise ValueError(f"recipe= is missing: {_instead_of_recipe(words, known)}")
    for name in value.split(","):
        if name not in known:
            name = name.strip("'")  # which a word has that Hydra reads only in quotes
            raise ValueError(f"recipe={name!r} is unknown: {_near_recipe(name, known)}")
        if take(words, "hydra.searchpath")[0] is None:  # else options are in other folders too
            _check_defaults(name, known)
    check_form(words)
    for word in words:
        _check_group(word)


def _near_recipe(name: str, known: list[str]) -> str:
    """What to write for a recipe that there is not: files end in .yaml."""
    path = Path(name)
    files = sorted(path.glob("*.yaml")) if path.is_dir() else [Path(f"{path}.yaml")]
    files = [str(file) for file in files if file.is_file()]
    if path.is_file():
        return f"it is a file, and those of recipes end in .yaml; rename it to {path.stem}.yaml"
    return f"did you mean {', '.join(files[:3])}?" if files else nearest(name, known)


def _instead_of_recipe(words: list[str], known: list[str]) -> str:
    """What to write where a command has no recipe=: a recipe may stand there without its key."""
    for word in words:
        key, name = split_word(word)
        if name in known:  # as recipes=vit_b_24
            return f"write recipe={name} instead of {key}={name}"
    bare = [word for word in words if "=" not in word and word != "recipe"]
    for word in bare:
        if word in known or word.endswith((".yaml", ".yml")):
            return f"write recipe={word}"
    for word in bare:
        if near := get_close_matches(word, known, n=1):
            return f"write recipe={near[0]} instead of {word}"
    return f"choose one of {', '.join(recipe_names())}"


def _check_defaults(name: str, known: list[str]) -> None:
    """Raise ValueError for an option of a group, or a recipe, that a recipe builds on and that does
    not exist. Hydra's own error lists its search path."""
    if name not in stored_recipes():  # one of the package, which nothing composed yet
        return
    entries = plain(stored_recipes()[name]).get("defaults", [])
    where = f"recipe={name}: defaults"
    if not isinstance(entries, list):
        raise ValueError(f"{where}: give a list, as - override /model: vit_b")
    for entry in entries:
        if entry == name:
            raise ValueError(f"{where}: {entry!r} is this recipe itself; take it out")
        if isinstance(entry, str) and entry not in ("_self_", *known):
            raise ValueError(f"{where}: {entry!r} is no recipe: {nearest(entry, known)}")
        for key, value in entry.items() if isinstance(entry, dict) else ():
            group = str(key).removeprefix("override ").lstrip("/").partition("@")[0]
            if group not in groups():
                raise ValueError(f"{where}: {key!r} is no group: {nearest(group, groups())}")
            if not str(key).startswith("override /"):
                raise ValueError(f"{where}: {key}: write - override /{group}: {value}")
            if isinstance(value, str) and value not in options_of(group):
                fix = nearest(value, options_of(group))
                raise ValueError(f"{where}: {key}: {value!r} is unknown: {fix}")


def options_of(group: str) -> list[str]:
    """The options of a group of the config."""
    return sorted(path.stem for path in (data_folder("configs") / group).glob("*.yaml"))


def _check_group(word: str) -> None:
    key, value = split_word(word)
    if key not in groups() or word == NO_DEMO:
        return
    options = options_of(key)
    if value.startswith("["):
        raise ValueError(f"{word}: {key} is one option, not a list: {nearest('', options)}")
    for name in value.split(","):
        if name not in options and (other := option_for(key, name.lower())):
            raise ValueError(f"{word} is no option of {key}: write {other}")
        if name in ("", "null"):
            part = f"; {key}.NAME=null leaves out one part of it" if key in PARTS else ""
            raise ValueError(f"{word}: the group cannot be left out, {nearest('', options)}{part}")
        if name not in options:
            raise ValueError(f"{key}={name!r} is unknown: {nearest(name, options)}")


def plain(config: DictConfig) -> dict[str, Any]:
    """The config as it is written, without Hydra's part."""
    from omegaconf import OmegaConf

    values = OmegaConf.to_container(config)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items() if key != "hydra"}
