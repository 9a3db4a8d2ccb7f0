"""A model as a checkpoint left it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from sparsetrain.cli.limits import no_larger_than
from sparsetrain.cli.ranges import shown
from sparsetrain.errors import first_three
from sparsetrain.lightning import read_checkpoint
from sparsetrain.nn import load_sparse_state, sparsify
from sparsetrain.recipe import instantiate_sparsity
from sparsetrain.targets import check_places, check_plain, check_targets
from sparsetrain.upgrade import upgraded_data


@dataclass(frozen=True)
class Trained:
    """A network with its weights and its sparse state; config: what it was trained with; classes:
    their names, None where they are not known."""

    network: nn.Module
    config: DictConfig
    phase: str | None
    classes: list[str] | None


def load_trained(path: str, allowed: Collection[str] = ()) -> Trained:
    """Build the network of a checkpoint that `fit` wrote, load it, and restore its masks.

    allowed: targets that its config may name beside sparsetrain's own.
    Raises FileNotFoundError or ValueError naming what is wrong with the file.
    """
    checkpoint = read_checkpoint(path)
    config = _config(checkpoint, path, allowed)
    wrapper = nn.Module()
    weights = _of_network(checkpoint["state_dict"])
    with no_larger_than(weights, path):
        wrapper.network = instantiate(config.model, _convert_="all")
    sparsify(wrapper, instantiate_sparsity(config))
    check_weights(wrapper, weights, path)
    wrapper.load_state_dict(weights)
    state = checkpoint.get("sparsetrain_state")
    if not isinstance(state, dict) or not {"layers", "phase"} <= state.keys():
        raise ValueError(f"checkpoint={path} has no sparse state: `sparsetrain fit` writes one")
    load_sparse_state(wrapper, state["layers"])
    classes = saved_config(checkpoint, path).get("classes")
    return Trained(wrapper.network.eval(), config, state["phase"], classes)


def check_weights(module: nn.Module, saved: dict[str, Any], path: str) -> None:
    """Raise ValueError in one line unless a checkpoint's tensors are those of the model, and
    finite."""
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    others = {name: tuple(tensor.shape) for name, tensor in saved.items()}
    differ = [
        f"{name} is {others.get(name, 'absent')} there and {shapes.get(name, 'absent')} here"
        for name in {**shapes, **others}
        if shapes.get(name) != others.get(name)
    ]
    if differ:
        raise ValueError(
            f"checkpoint={path} is of another model: {first_three(differ)}; give the model.* and "
            "data of the run that wrote it"
        )
    bad = [name for name, tensor in saved.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise ValueError(
            f"checkpoint={path}: {bad[0]} is not finite ({len(bad)} of {len(saved)} tensors): the "
            "run had diverged; give a checkpoint from before"
        )


def check_sparsity(checkpoint: dict[str, Any], config: DictConfig, path: str) -> None:
    """Raise ValueError in one line for a dense checkpoint of a sparse run, and the reverse."""
    saved = checkpoint.get("sparsetrain_config")
    before = saved.get("config") if isinstance(saved, dict) else None
    before = before.get("sparsity") if isinstance(before, dict) else None
    if not isinstance(before, dict):
        return
    was, now = _is_sparse(before), _is_sparse(config.sparsity)
    if was == now:
        return
    if was:
        raise ValueError(
            f"checkpoint={path} was trained sparse, and this run is dense: give the sparsity= of "
            "the run that wrote it"
        )
    raise ValueError(
        f"checkpoint={path} was trained dense, and this run is sparse: give sparsity=dense, or go "
        f"on from what `prune checkpoint={path} method=magnitude` writes"
    )


def first_masks(saved: dict[str, Any] | None, config: DictConfig) -> tuple[str, ...]:
    """A line where masks stay from the first step on and no checkpoint has them."""
    schedule = config.sparsity.get("schedule")
    stay = schedule is not None and schedule.get("freeze_at") == 0
    if saved is not None or not stay or not _is_sparse(config.sparsity):
        return ()
    return (
        "masks stay from the first step on, and there is no checkpoint= that has them: they are "
        "chosen from the weights that the run starts with",
    )


def _is_sparse(sparsity: Any) -> bool:
    return any(sparsity.get(part) for part in ("weight", "activation", "parts"))


def changes_since(checkpoint: dict[str, Any], config: DictConfig, path: str) -> tuple[str, ...]:
    """A line that names what of a run's config is not as its checkpoint says; nothing without."""
    saved = checkpoint.get("sparsetrain_config")
    before = saved.get("config") if isinstance(saved, dict) else None
    if not isinstance(before, dict):
        return ()
    now = OmegaConf.to_container(config, resolve=True)
    changed = [
        f"{key}={_short(new)} (was {_short(old)})"
        for key, old, new in _differences(before, now)
        if not key.startswith(_FREE)
    ]
    if not changed:
        return ()
    return (f"goes on from {path} with other values: {', '.join(changed)}",)


_FREE = (
    "checkpoint", "permute", "run_dir", "callbacks", "logger", "data.num_workers",
    "data.prefetch_factor",
)  # fmt: skip
"""What may change without another run."""


def _differences(before: Any, now: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    if not (isinstance(before, dict) and isinstance(now, dict)):
        if before != now:
            yield key, before, now
        return
    for name in {**now, **before}:
        inside = f"{key}.{name}" if key else str(name)
        yield from _differences(before.get(name), now.get(name), inside)


def _short(value: Any) -> str:
    text = shown(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def saved_config(checkpoint: dict[str, Any], path: str) -> dict[str, Any]:
    """`config` and `overrides` of a checkpoint, unchecked. Raises ValueError if there are none."""
    saved = checkpoint.get("sparsetrain_config")
    if not isinstance(saved, dict) or not {"config", "overrides"} <= saved.keys():
        raise ValueError(f"checkpoint={path} was not written by `sparsetrain fit`: no config in it")
    return saved


def _config(checkpoint: dict[str, Any], path: str, allowed: Collection[str]) -> DictConfig:
    """The config of a checkpoint, checked: nothing that it names is made before."""
    values = saved_config(checkpoint, path)["config"]
    check_targets(values, f"checkpoint={path}", allowed)
    check_plain(values, f"checkpoint={path}")
    if isinstance(values, dict):
        check_places(values, f"checkpoint={path}", allowed)
    for key in ("model", "sparsity", "data", "optimizer", "mix", "trainer"):
        if not isinstance(values, dict) or not isinstance(values.get(key), dict):
            raise ValueError(f"checkpoint={path}: its config has no {key}: `fit` writes one")
    config = OmegaConf.create({**values, "data": upgraded_data(values["data"])})
    # What its first weights were is of no use: its own come next.
    for key in ("pretrained", "checkpoint_path"):
        (config.model.get("options") or {}).pop(key, None)
    return config


def _of_network(state_dict: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in state_dict.items() if key.startswith("network.")}
