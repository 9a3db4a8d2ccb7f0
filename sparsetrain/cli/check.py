"""The key=value words of a command line and the recipe, checked before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any

from sparsetrain.cli.hydra_parts import check_hydra
from sparsetrain.cli.known import (
    FILES,
    PARTS,
    base_config,
    groups,
    keys_of,
    left_over,
    missing_keys,
    odd_keys,
    parameters,
)
from sparsetrain.cli.overrides import parsed, split_word
from sparsetrain.cli.ranges import check_each, check_value, check_values, shown
from sparsetrain.cli.synonyms import key_for
from sparsetrain.cli.words import check_words, options_of, plain
from sparsetrain.recipe import compose, nearest
from sparsetrain.targets import check_targets

if TYPE_CHECKING:
    from omegaconf import DictConfig


def check(words: list[str], allowed: Collection[str] = ()) -> DictConfig:
    """Raise ValueError in one line for an unknown recipe, group option, or key, a value that its
    key cannot have, and a target that is neither sparsetrain's own nor `allowed`.

    Returns the composed config, of a sweep that of its first run.
    """
    config = check_alone(words, allowed)
    check_ranges(config)
    for key, value in _swept_values(words):
        check_value(key, value)
    return config


def check_alone(words: list[str], allowed: Collection[str] = ()) -> DictConfig:
    """`check` of each value alone: those of a recipe that is cut down need not agree."""
    check_words(words)
    first = list(_first_of_sweeps(words))
    whole = _composed(first)
    check_hydra(words, whole)
    choices = dict(whole.hydra.runtime.choices)
    config = _without_hydra(whole)
    _check_composed(config, choices, first, allowed)
    check_each(_getter(config))
    return config


def check_ranges(config: DictConfig) -> None:
    """Raise ValueError in one line for a value that its key cannot have; those that are not
    resolved yet are passed over."""
    check_values(_getter(config))


def _composed(words: list[str]) -> DictConfig:
    """The config with Hydra's part of it. Raises ValueError for a key that it does not have."""
    from hydra.errors import ConfigCompositionException

    try:
        return compose(words, hydras=True)
    except ConfigCompositionException:
        chosen = [word for word in words if split_word(word)[0] in ("recipe", *groups())]
        before = compose(chosen, hydras=True)
        choices, keys = dict(before.hydra.runtime.choices), sorted(keys_of(plain(before)))
        for word in words:
            key, _ = split_word(word)
            holds = plain(before).get(group := key.partition(".")[0], {})
            if "." in key and not isinstance(holds, dict):
                raise ValueError(_no_keys(f"recipe={choices['recipe']}: ", group, holds)) from None
            added = word[0] in "+~" or key.partition(".")[0] == "hydra"
            if not added and key not in (*keys, "recipe", *groups()):
                fix = _instead(word, choices, keys)
                raise ValueError(f"{key}= is no key of this config: {fix}") from None
        raise


def _check_composed(
    config: DictConfig, choices: dict[str, str], words: list[str], allowed: Collection[str]
) -> None:
    values = plain(config)
    check_targets(values, FILES, allowed)
    _check_parts(values, choices)
    given = {split_word(word)[0] for word in words}
    base = base_config(choices)
    for key in missing_keys(values, base):
        raise ValueError(f"~{key}: a run reads {key}, so it cannot be taken out; give it a value")
    for key, value, known in odd_keys(values, base):
        begin = "" if _is_given(key, given) else f"recipe={choices['recipe']}: "
        if not known:
            raise ValueError(_no_keys(begin, key, value))
        fix = _instead(f"{key}={value}", choices, known)
        raise ValueError(f"{begin}{key} is no key of this config: {fix}")
    for key, target in left_over(values, base):
        name = key.rpartition(".")[2]
        raise ValueError(f"{key}: {target} takes no {name}; add ~{key} to the command line")
    _check_trainer(values["trainer"])


def _no_keys(begin: str, key: str, value: Any) -> str:
    return f"{begin}{key}={shown(value)}: it holds keys, as {key}.NAME"


_BY_FIT = {
    "callbacks": "callbacks are callbacks.NAME",
    "logger": "loggers are logger.NAME",
    "plugins": "checkpoints are written by one of its own",
    "default_root_dir": "the folder of a run is hydra.run.dir",
}
"""Arguments of Lightning's Trainer that `fit` gives itself, and what to set instead."""


def _check_trainer(values: dict[str, Any]) -> None:
    """Raise ValueError for an argument whose value `fit` would replace by its own."""
    for key in values.keys() & _BY_FIT.keys():
        raise ValueError(f"trainer.{key} is given by `fit` itself: {_BY_FIT[key]}; leave it out")


def _is_given(key: str, given: set[str]) -> bool:
    """Whether a word of the command line sets a key, or what it lies in."""
    return any(key == word or key.startswith(f"{word}.") for word in given)


def _instead(word: str, choices: dict[str, str], keys: Collection[str]) -> str:
    """What to write for a key that is not there."""
    from sparsetrain.upgrade import upgraded_words

    key, _ = split_word(word)
    today = upgraded_words(word)
    if today != (word,):
        return f"write {' '.join(today)}"
    options = _options_with(key, choices)
    if options:
        return f"it comes with {' or '.join(options)}"
    if other := key_for(key, split_word(word)[1]):
        return f"write {other}"
    return nearest(key, keys) + (f" (or +{word})" if _is_argument(key, choices) else "")


def _is_argument(key: str, choices: dict[str, str]) -> bool:
    """Whether a target of the config takes it that is not given it."""
    node: Any = base_config(choices)
    *path, name = key.split(".")
    for part in path:
        node = node.get(part) if isinstance(node, dict) else None
    return isinstance(node, dict) and name in (parameters(node.get("_target_")) or ())


def _options_with(key: str, choices: dict[str, str]) -> list[str]:
    """'group=option' for each option of the key's group, not the chosen one, that has the key."""
    group = key.partition(".")[0]
    if group not in groups():
        return []
    options = [option for option in options_of(group) if option != choices.get(group)]
    having = [option for option in options if key in keys_of(base_config({group: option}))]
    return [f"{group}={option}" for option in having]


def _check_parts(values: dict[str, Any], choices: dict[str, str]) -> None:
    """Raise ValueError for a callback, a logger or a part that nothing can be made of."""
    for group in PARTS:
        for name, node in values[group].items():
            if node is None or (isinstance(node, dict) and "_target_" in node):
                continue
            options = _options_with(f"{group}.{name}._target_", choices)
            fix = f"choose {' or '.join(options)}" if options else "give its class as _target_"
            raise ValueError(f"{group}.{name} has no _target_, so nothing can be made of it: {fix}")
    if values["logger"].get("csv") is None:
        raise ValueError(
            "logger.csv=null: the summary and report.html are drawn from metrics.csv; leave it in"
        )
    for name, node in (values["sparsity"].get("parts") or {}).items():
        if node is None:
            raise ValueError(
                f"sparsity.parts.{name}=null: leave the part out by ~sparsity.parts.{name}, or its "
                f"layers dense by sparsity.parts.{name}.weight=null"
            )
        if not isinstance(node, dict) or "_target_" not in node:
            raise ValueError(f"sparsity.parts.{name} has no _target_: give sparsetrain.Part")


def _getter(config: DictConfig) -> Callable[[str], Any]:
    from omegaconf import OmegaConf
    from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

    def get(key: str) -> Any:
        *path, last = key.split(".")
        node: Any = config
        for name in path:
            node = node.get(name) if OmegaConf.is_dict(node) else None
        if not OmegaConf.is_dict(node) or last not in node._content:
            raise KeyError(key)
        try:
            value = node[last]
        except InterpolationKeyError as error:
            raise ValueError(f"{key}: {str(error).splitlines()[0]}") from error
        except OmegaConfBaseException:  # of the run, as its folder
            raise KeyError(key) from None
        return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value

    return get


def _without_hydra(config: DictConfig) -> DictConfig:
    from omegaconf import OmegaConf, open_dict

    OmegaConf.set_readonly(config, False)
    with open_dict(config):
        del config["hydra"]
    return config


def _first_of_sweeps(words: list[str]) -> Iterator[str]:
    for override in parsed(words):
        if override.is_sweep_override():
            first = next(iter(override.sweep_string_iterator()))
            yield f"{override.get_key_element()}={first}"
        else:
            yield str(override.input_line)


def _swept_values(words: list[str]) -> Iterator[tuple[str, Any]]:
    """Each key of a sweep with each of its values."""
    for override in parsed(words):
        if override.is_sweep_override():
            key = override.get_key_element()
            for each in parsed([f"{key}={text}" for text in override.sweep_string_iterator()]):
                yield key.lstrip("+"), each.value()
