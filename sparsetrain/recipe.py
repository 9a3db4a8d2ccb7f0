"""Recipes: the YAML files of recipes/ and configs/, composed by Hydra.

This and cli/ are all that knows Hydra; it is imported when a recipe is asked for.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsetrain.errors import installed
from sparsetrain.file_format import RECIPE_KEY, check_format
from sparsetrain.targets import check_size

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from sparsetrain.nn import Sparsity

PACKAGE = Path(__file__).resolve().parent

_FEW = 16  # names that a line still lists, all of them
_NEAREST = 8  # of more


def data_folder(name: str) -> Path:
    """`configs`, `recipes` or `csrc`: inside an installed package, beside it in a checkout."""
    packaged = PACKAGE / name
    return packaged if packaged.is_dir() else PACKAGE.parent / name


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in data_folder("recipes").glob("*.yaml"))


def nearest(name: str, candidates: Iterable[str]) -> str:
    """'did you mean a, b?' where something is near, else what there is: the nearest of many."""
    candidates = list(dict.fromkeys(candidates))
    ends = [candidate for candidate in candidates if candidate.endswith(f".{name}")]
    near = ends[:3] or difflib.get_close_matches(name.lower(), candidates, n=3, cutoff=0.5)
    if near:
        return f"did you mean {', '.join(near)}?"
    if len(candidates) <= _FEW:
        verb = "is" if len(candidates) == 1 else "are"
        return f"there {verb} {', '.join(candidates) or 'none'}"
    near = difflib.get_close_matches(name, candidates, n=_NEAREST, cutoff=0.0)
    return f"there are {', '.join(near)} and {len(candidates) - len(near)} more"


def store_recipes(words: Iterable[str]) -> None:
    """Offer the recipes that the words name to Hydra as the group `recipe`, once in a process.

    Hydra copies all that it was offered in each composition: with one of the 18 a composition takes
    0.2 s, with all of them 0.3 s. Those of the package are offered together where a word names
    another, which may build on them.
    """
    from hydra.core.config_store import ConfigStore

    keys_and_values = [word.lstrip("+").partition("=")[::2] for word in words]
    named = {n for key, value in keys_and_values if key == "recipe" for n in value.split(",")}
    known = recipe_names()
    stored = ConfigStore.instance().repo.get("recipe", {})
    for name in sorted(named) if named and named <= {*known} else known:
        if f"{name}.yaml" not in stored:
            store_recipe(data_folder("recipes") / f"{name}.yaml", name)


def store_own_recipe(path: Path) -> str:
    """Offer a recipe file of the user's to Hydra. Returns its name: the file's, with `own_` before
    that of a recipe of the package, whose place it must not take, and `_` for what is neither a
    letter of ASCII, a digit, `_` nor `-`: run folders are named by it.

    Raises ValueError for a file that is not YAML, holds no keys, or is of another format.
    """
    name = re.sub(r"[^A-Za-z0-9_-]", "_", path.stem)
    name = f"own_{name}" if name in recipe_names() else name
    store_recipe(path, name)
    return name


def store_recipe(path: Path, name: str) -> None:
    """Offer one recipe file to Hydra. Raises ValueError for one that cannot be read."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    values = _recipe_values(path, f"recipe={path}")
    check_format(values.pop(RECIPE_KEY, None), f"recipe={path}")
    if not values:
        raise ValueError(f"recipe={path} is empty: a recipe sets keys, as recipes/vit_b_24.yaml")
    try:
        node = OmegaConf.create(values)
    except OmegaConfBaseException as error:  # `${` without its end, a key that is no text
        raise ValueError(f"recipe={path}: {str(error).splitlines()[0]}") from error
    # Recipes set keys of the whole config, as their header `# @package _global_` says.
    ConfigStore.instance().store(group="recipe", name=name, node=node, package="_global_")


def _recipe_values(path: Path, where: str) -> dict[str, Any]:
    """The plain values of a recipe file, before anything expands what its aliases repeat."""
    import yaml
    from omegaconf._utils import get_yaml_loader

    try:
        # SafeLoader's, and 1e-3 is a number
        values = yaml.load(path.read_text("utf-8"), Loader=get_yaml_loader())
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is no text in UTF-8: is it a recipe?") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{where} is no YAML: {error}") from error
    except RecursionError as error:
        raise ValueError(f"{where} is nested too deep: no recipe is") from error
    if values is not None and not isinstance(values, dict):
        kind = (
            "a list" if isinstance(values, list) else "text" if isinstance(values, str) else values
        )
        raise ValueError(f"{where} holds {kind}; a recipe sets keys")
    check_size(values, where)
    return values or {}


def compose(overrides: list[str], hydras: bool = False) -> DictConfig:
    """The config of a run, as `python -m sparsetrain fit` would see it with these overrides.

    hydras: with Hydra's own part of it, as `hydra`.
    """
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    store_recipes(overrides)
    # The caller may be a Hydra program of its own, with other folders.
    state = GlobalHydra.instance()
    callers, state.hydra = state.hydra, None
    try:
        with hydra.initialize_config_dir(str(data_folder("configs")), version_base="1.3"):
            return hydra.compose("config", overrides, return_hydra_config=hydras)
    finally:
        state.hydra = callers


def resolve_sparsity(sparsity: Sparsity | None, recipe: str | None) -> Sparsity:
    """The sparsity given, or that of a recipe. Raises ValueError unless exactly one is given,
    or for an unknown recipe, and ModuleNotFoundError for a recipe without hydra-core."""
    if (sparsity is None) == (recipe is None):
        raise ValueError(f"sparsity={sparsity!r}, recipe={recipe!r}: give exactly one of the two")
    if sparsity is not None:
        return sparsity
    assert recipe is not None
    if recipe not in recipe_names():
        raise ValueError(f"recipe={recipe!r} is unknown: {nearest(recipe, recipe_names())}")
    with installed("hydra-core", f"recipe={recipe!r}"):
        import hydra  # noqa: F401
    return instantiate_sparsity(compose([f"recipe={recipe}"]))


def instantiate_sparsity(config: DictConfig) -> Sparsity:
    """The `sparsity` node of a composed config, of format 1 too, as the frozen type."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    from sparsetrain.upgrade import upgraded_sparsity

    node: Any = OmegaConf.to_container(config.sparsity, resolve=True)
    assert isinstance(node, dict)
    return instantiate(upgraded_sparsity(node), _convert_="all")
