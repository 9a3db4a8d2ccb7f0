"""What Hydra itself calls before a run starts: only the command line may change it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sparsetrain.cli.known import FILES
from sparsetrain.cli.overrides import parsed, split_word, take
from sparsetrain.recipe import compose, recipe_names

if TYPE_CHECKING:
    from omegaconf import DictConfig

_CALLED = ("callbacks", "launcher", "sweeper", "hydra_logging", "job_logging", "job.env_set")


def check_hydra(words: list[str], first: DictConfig) -> None:
    """Raise ValueError in one line where a recipe or a folder of configs changes Hydra's callbacks,
    launcher, sweeper, logging or environment, each of which can run code before any check of ours.

    first: the config of the words, of a sweep that of its first run, with Hydra's part.
    A recipe of the package with none of the user's files has been checked by its tests.
    """
    recipe, _ = take(words, "recipe")
    folders, rest = take(words, "hydra.searchpath")
    if folders is None and {*(recipe or "").split(",")} <= {*recipe_names()}:
        return
    of_hydra = [word for word in rest if split_word(word)[0].startswith("hydra")]
    expected = _parts(compose([f"recipe={recipe_names()[0]}", *of_hydra], hydras=True))
    _, *others = _one_by_one(words)
    for config in (first, *(compose(one, hydras=True) for one in others)):
        for part, value in _parts(config).items():
            if value != expected[part]:
                raise ValueError(
                    f"{FILES}: hydra.{part} is changed there, and could run any code: take it out "
                    "and give it on the command line"
                )


def _parts(config: DictConfig) -> dict[str, Any]:
    from omegaconf import OmegaConf

    composed = OmegaConf.to_container(config.hydra)
    assert isinstance(composed, dict)
    parts: dict[str, Any] = {}
    for part in _CALLED:
        value: Any = composed
        for key in part.split("."):
            value = value[key]
        parts[part] = value
    return parts


def _one_by_one(words: list[str]) -> Iterator[list[str]]:
    """The words of a sweep with each value of each key, the other keys at their first."""
    values = []
    for override in parsed(words):
        if override.is_sweep_override():
            key = override.get_key_element()
            values.append([f"{key}={each}" for each in override.sweep_string_iterator()])
        else:
            values.append([str(override.input_line)])
    first = [each[0] for each in values]
    yield first
    for i, each in enumerate(values):
        for word in each[1:]:
            yield [*first[:i], word, *first[i + 1 :]]
