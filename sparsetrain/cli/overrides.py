"""The key=value words of a command line, checked before anything runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsetrain.recipe import compose, data_folder, nearest, recipe_names, store_recipe

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

_NO_DEMO = "~demo"
_PARTS = ("callbacks", "logger")  # groups whose nodes are made one by one


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
    words = with_demo_off(words)
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


def with_demo_off(words: list[str]) -> list[str]:
    """demo=null as Hydra can read it, which takes no null for a group."""
    return [_NO_DEMO if word == "demo=null" else word for word in words]


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
    _check_parts(compose(plain), chosen)


def swept(words: list[str]) -> dict[str, int]:
    """The keys that have several values for a sweep, and how many."""
    return {
        override.get_key_element().lstrip("+"): len(list(override.sweep_string_iterator()))
        for override in _parsed(words)
        if override.is_sweep_override()
    }


def _groups() -> set[str]:
    return {"recipe", *(path.name for path in data_folder("configs").iterdir() if path.is_dir())}


def _options(group: str) -> list[str]:
    return sorted(path.stem for path in (data_folder("configs") / group).glob("*.yaml"))


def _check_group(word: str) -> None:
    key, value = split_word(word)
    if key == "recipe" or key not in _groups() or word == _NO_DEMO:
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
    """Raise ValueError for text where the config has a number, and anywhere in the optimizer.

    before: the config without the keys that the words set.
    """
    from omegaconf import OmegaConf

    optimizer = [(f"optimizer.{name}", value) for name, value in before.optimizer.items()]
    for key, value in (*optimizer, *_values_of(words)):
        old = OmegaConf.select(before, key, throw_on_resolution_failure=False)
        is_number = isinstance(old, int | float) and not isinstance(old, bool)
        of_optimizer = key.startswith("optimizer.") and key != "optimizer._target_"
        if (is_number or of_optimizer) and isinstance(value, str) and "${" not in value:
            example = f", as {old} is" if is_number else ""
            raise ValueError(f"{key}={value}: give a number{example}")


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
    for override in _parsed(words):
        if override.is_sweep_override():
            first = next(iter(override.sweep_string_iterator()))
            yield f"{override.get_key_element()}={first}"
        else:
            yield str(override.input_line)


def _values_of(words: list[str]) -> Iterator[tuple[str, Any]]:
    """Each key with each value it is given in a sweep or a list, typed; text is str."""
    from hydra.core.override_parser.types import QuotedString

    for override in _parsed(words):
        key = override.get_key_element().lstrip("+")
        if override.is_delete():
            continue
        if override.is_sweep_override():
            yield from _values_of([f"{key}={each}" for each in override.sweep_string_iterator()])
            continue
        value = override.value()
        for each in value if isinstance(value, list) else [value]:
            yield key, each.text if isinstance(each, QuotedString) else each


def _parsed(words: list[str]) -> list[Override]:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_overrides(words)


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
