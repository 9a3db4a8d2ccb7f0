"""The key=value words of a command line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsetrain.cli.known import groups
from sparsetrain.recipe import nearest, recipe_names, store_own_recipe, store_recipes

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

NOTES = {
    "digits": "No data set was given, so this run trains on scikit-learn's 1,797 embedded digits "
    "at 32 pixels with numbers made for a CPU: it shows that everything runs, not what the recipe "
    "reaches. Give the real one with data=imagenet data.root=/path (or IMAGENET_DIR), or with "
    "data=parquet data.root=/path.",
    "cpu": "No GPU was found, so this run is cut to what a CPU does in minutes: 32 pixels, batches "
    "of 32, 2 epochs of at most 100 steps, no mixing. It shows that everything runs on your data, "
    "not what the recipe reaches. Set sizes of your own (model.img_size=, data.batch_size=), or "
    "demo=null for the recipe as it is.",
}
"""What a run says that is cut down, by the name of its file in configs/demo/."""

_PATHS = ("checkpoint", "data.root", "run_dir", "hydra.run.dir", "hydra.sweep.dir")

NO_DEMO = "~demo"
"""demo=null as Hydra can read it, which takes no null for a group."""


def split_word(word: str) -> tuple[str, str]:
    """'+data.root=/x' → ('data.root', '/x')."""
    key, _, value = word.partition("=")
    return key.lstrip("+~"), value


def check_form(words: list[str]) -> None:
    """Raise ValueError for a word that is not key=value."""
    if "=" in words:
        raise ValueError("' = ' with spaces: write key=value, without spaces around the =")
    for word in words:
        if not split_word(word)[0] or ("=" not in word and word[:1] != "~"):
            fix = f": write checkpoint={word}" if word.endswith(".ckpt") else ""
            raise ValueError(f"{word!r} is not of the form key=value{fix}")


def take(words: list[str], key: str) -> tuple[str | None, list[str]]:
    """The last value given for `key`, and the other words."""
    values = [split_word(word)[1] for word in words if split_word(word)[0] == key]
    rest = [word for word in words if split_word(word)[0] != key]
    return (values[-1] if values else None), rest


def take_allowed(words: list[str]) -> tuple[frozenset[str], list[str]]:
    """The targets beside sparsetrain's own that the words allow, and the words without
    `allow_targets=[…]`. A word that sets a `_target_` allows what it names.

    Raises ValueError for what is no list of names.
    """
    value, rest = take(words, "allow_targets")
    given = [] if value is None else [name for _, name in values_of([f"allow_targets={value}"])]
    for name in given:
        if not isinstance(name, str) or "." not in name:
            raise ValueError(
                f"allow_targets={value}: give names in full, as allow_targets=[my.module.Thing]"
            )
    named = values_of([word for word in rest if "_target_" in word])
    return frozenset([*given, *(name for key, value in named for name in _named(key, value))]), rest


def _named(key: str, value: Any) -> Iterator[str]:
    """The targets in what a word gives to a key."""
    if isinstance(value, dict):
        for inner, each in value.items():
            yield from _named(str(inner), each)
    elif isinstance(value, list):
        for each in value:
            yield from _named("", each)
    elif key.rpartition(".")[2] == "_target_":
        yield str(value)


def with_recipe_file(words: list[str]) -> list[str]:
    """recipe=path/to/mine.yaml offers that file to Hydra under its name."""
    value, rest = take(words, "recipe")
    if value is None or not value.endswith((".yaml", ".yml")):
        return words
    path = Path(value)
    if not path.is_file():
        raise FileNotFoundError(
            f"recipe={value}: no such file; {nearest(path.stem, recipe_names())}"
        )
    return [f"recipe={store_own_recipe(path)}", *rest]


def with_demo(words: list[str], has_gpu: bool) -> list[str]:
    """Cut an ImageNet recipe down where there is no data set for it, or no GPU.

    Sizes, data and demo= that are given are the user's choice and are left alone.
    """
    words = with_demo_off(words)
    keys = {split_word(word)[0] for word in words}
    value, _ = take(words, "recipe")
    if "demo" in keys or not value:
        return words
    store_recipes(words)
    if not all(_wants_imagenet(name) for name in value.split(",")):
        return words
    if not keys & {"data", "data.root"} and not os.environ.get("IMAGENET_DIR"):
        return [*words, "demo=digits"]
    if not has_gpu and not keys & {"model", "model.img_size", "data.batch_size"}:
        return [*words, "demo=cpu"]
    return words


def with_demo_off(words: list[str]) -> list[str]:
    """The words, NO_DEMO for demo=null."""
    return [NO_DEMO if word == "demo=null" else word for word in words]


def with_quotes(words: list[str]) -> list[str]:
    """The words with quotes around what Hydra's grammar would not take as text: a path may hold
    any character, and so may a name. Raises ValueError for a word that quotes do not mend."""
    return [_with_quotes(word) for word in words]


def _with_quotes(word: str) -> str:
    from hydra.core.override_parser.types import Quote, QuotedString
    from hydra.errors import OverrideParseException

    key, equals, value = word.partition("=")
    quoted = f"{key}={QuotedString(value, Quote.single).with_quotes()}"
    if not equals:
        return word  # said elsewhere
    is_path = key.lstrip("+") in _PATHS and value not in ("", "null")
    if is_path and value[:1] == "~":  # which a shell leaves as it is behind a =
        value = os.path.expanduser(value)
        word = f"{key}={value}"
        quoted = f"{key}={QuotedString(value, Quote.single).with_quotes()}"
    if is_path and (Path(value).exists() or not re.search(r"""[,'"(\[]|\$\{""", value)):
        return quoted
    try:
        parsed([word])
        return word
    except OverrideParseException as error:
        if value[:1] not in ("[", "{", "(", "'", '"') or is_path:
            with suppress(OverrideParseException):
                parsed([quoted])
                return quoted
        if value[:1] == "(" and value[-1:] == ")":
            with suppress(OverrideParseException):
                parsed([f"{key}=[{value[1:-1]}]"])
                raise ValueError(f"{word}: a list is written {key}=[{value[1:-1]}]") from error
        raise ValueError(
            f"{word} cannot be read: text with brackets, commas or quotes is given in quotes, as "
            f"\"{key}='…'\""
        ) from error


def swept(words: list[str]) -> dict[str, int]:
    """The keys that have several values for a sweep, and how many."""
    return {
        override.get_key_element().lstrip("+"): len(list(override.sweep_string_iterator()))
        for override in parsed(words)
        if override.is_sweep_override()
    }


def check_single(words: list[str], fix: str) -> None:
    """Raise ValueError for a word with several values, where one run is made of the words.

    fix: what has a run for each of them.
    """
    for override in parsed([word for word in words if "=" in word]):
        if override.is_sweep_override():
            word, key = str(override.input_line), override.get_key_element()
            value = word.partition("=")[2]
            text = f"a list is written {key}=[{value}], text with commas \"{key}='{value}'\""
            other = "without -m choose one" if key in groups() else text
            raise ValueError(f"{word} has several values: {fix}; {other}")


def check_folders(words: list[str]) -> None:
    """Raise ValueError for a run's folder that is empty: it would be the folder of the process."""
    for key, value in values_of([word for word in words if "=" in word]):
        if key in ("run_dir", "hydra.run.dir", "hydra.sweep.dir") and value in ("", None):
            raise ValueError(f"{key}= is empty: give a folder, as {key}=runs/mine, or leave it out")


def parsed(words: list[str]) -> list[Override]:
    """The words as Hydra reads them."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_overrides(words)


def values_of(words: list[str]) -> Iterator[tuple[str, Any]]:
    """Each key with each value it is given in a sweep or a list, typed; text is str."""
    from hydra.core.override_parser.types import QuotedString

    for override in parsed(words):
        key = override.get_key_element().lstrip("+")
        if override.is_delete():
            continue
        if override.is_sweep_override():
            yield from values_of([f"{key}={each}" for each in override.sweep_string_iterator()])
            continue
        value = override.value()
        for each in value if isinstance(value, list) else [value]:
            yield key, each.text if isinstance(each, QuotedString) else each


def stored_recipes() -> dict[str, DictConfig]:
    """The recipes that Hydra was given, ours and the user's, by name."""
    from hydra.core.config_store import ConfigStore

    group = ConfigStore.instance().repo.get("recipe", {})
    return {name.removesuffix(".yaml"): stored.node for name, stored in group.items()}


def _wants_imagenet(recipe: str) -> bool:
    """Whether a stored recipe leaves the data set, or where it is, to the user."""
    from omegaconf import OmegaConf

    node = stored_recipes().get(recipe)
    if node is None:
        return False
    picked = [d["override /data"] for d in node.get("defaults", []) if "override /data" in d]
    return picked in ([], ["imagenet"]) and OmegaConf.select(node, "data.root") is None
