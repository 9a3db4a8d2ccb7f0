"""The key=value words of a command line, checked before anything runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsetrain.recipe import compose, data_folder, nearest, recipe_names, store_recipe

if TYPE_CHECKING:
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


def split_word(word: str) -> tuple[str, str]:
    """'+data.root=/x' → ('data.root', '/x')."""
    key, _, value = word.partition("=")
    return key.lstrip("+~"), value


def take(words: list[str], key: str) -> tuple[str | None, list[str]]:
    """The last value given for `key`, and the other words."""
    values = [split_word(word)[1] for word in words if split_word(word)[0] == key]
    rest = [word for word in words if split_word(word)[0] != key]
    return (values[-1] if values else None), rest


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
    return [f"recipe={store_recipe(path)}", *rest]


def with_demo(words: list[str], has_gpu: bool) -> list[str]:
    """Cut an ImageNet recipe down where there is no data set for it, or no GPU.

    Sizes, data and demo= that are given are the user's choice and are left alone.
    """
    keys = {split_word(word)[0] for word in words}
    value, _ = take(words, "recipe")
    if "demo" in keys or not value:
        return words
    if not all(_wants_imagenet(name) for name in value.split(",")):
        return words
    if not keys & {"data", "data.root"} and not os.environ.get("IMAGENET_DIR"):
        return [*words, "demo=digits"]
    if not has_gpu and not keys & {"model", "model.img_size", "data.batch_size"}:
        return [*words, "demo=cpu"]
    return words


def check(words: list[str]) -> None:
    """Raise ValueError in one line for an unknown recipe, group option, or key."""
    value, _ = take(words, "recipe")
    if not value:
        raise ValueError(f"recipe= is missing: choose one of {', '.join(recipe_names())}")
    known = sorted({*recipe_names(), *_stored_recipes()})
    for name in value.split(","):
        if name not in known:
            raise ValueError(f"recipe={name!r} is unknown: {nearest(name, known)}")
    for word in words:
        if "=" not in word and word[0] != "~":
            raise ValueError(f"{word!r} is not of the form key=value")
        _check_group(word)
    plain = list(_first_of_sweeps(words))
    keys = sorted(_keys(compose([w for w in plain if split_word(w)[0] in _groups()])))
    for word in plain:
        key, _ = split_word(word)
        if word[0] in "+~" or key in _groups() or key.partition(".")[0] == "hydra":
            continue
        if key not in keys:
            raise ValueError(f"{key}= is no key of this config: {nearest(key, keys)} (or +{word})")
    compose(plain)


def _groups() -> set[str]:
    return {"recipe", *(path.name for path in data_folder("configs").iterdir() if path.is_dir())}


def _check_group(word: str) -> None:
    key, value = split_word(word)
    if key == "recipe" or key not in _groups() or value in ("", "null"):
        return
    options = sorted(path.stem for path in (data_folder("configs") / key).glob("*.yaml"))
    for name in value.strip("[]").split(","):
        if name not in options:
            raise ValueError(f"{key}={name!r} is unknown: {nearest(name, options)}")


def _keys(config: Any, prefix: str = "") -> Iterator[str]:
    from omegaconf import DictConfig

    for key in config:
        yield f"{prefix}{key}"
        node = config._get_node(key)
        if isinstance(node, DictConfig) and not node._is_none():
            yield from _keys(node, f"{prefix}{key}.")


def _first_of_sweeps(words: list[str]) -> Iterator[str]:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    for override in OverridesParser.create().parse_overrides(words):
        if override.is_sweep_override():
            first = next(iter(override.sweep_string_iterator()))
            yield f"{override.get_key_element()}={first}"
        else:
            yield str(override.input_line)


def _stored_recipes() -> dict[str, DictConfig]:
    """The recipes that Hydra was given, ours and the user's, by name."""
    from hydra.core.config_store import ConfigStore

    group = ConfigStore.instance().repo.get("recipe", {})
    return {name.removesuffix(".yaml"): stored.node for name, stored in group.items()}


def _wants_imagenet(recipe: str) -> bool:
    """Whether a stored recipe leaves the data set, or where it is, to the user."""
    from omegaconf import OmegaConf

    node = _stored_recipes().get(recipe)
    if node is None:
        return False
    picked = [d["override /data"] for d in node.get("defaults", []) if "override /data" in d]
    return picked in ([], ["imagenet"]) and OmegaConf.select(node, "data.root") is None
