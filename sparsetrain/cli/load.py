"""A model as a checkpoint left it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from sparsetrain.lightning import read_checkpoint
from sparsetrain.nn import load_sparse_state, sparsify
from sparsetrain.recipe import instantiate_sparsity
from sparsetrain.targets import check_plain, check_targets
from sparsetrain.upgrade import upgraded_data


@dataclass(frozen=True)
class Trained:
    """A network with its weights and its sparse state; config: what it was trained with."""

    network: nn.Module
    config: DictConfig
    phase: str | None


def load_trained(path: str, allowed: Collection[str] = ()) -> Trained:
    """Build the network of a checkpoint that `fit` wrote, load it, and restore its masks.

    allowed: targets that its config may name beside sparsetrain's own.
    Raises FileNotFoundError or ValueError naming what is wrong with the file.
    """
    checkpoint = read_checkpoint(path)
    config = _config(checkpoint, path, allowed)
    wrapper = nn.Module()
    wrapper.network = instantiate(config.model, _convert_="all")
    sparsify(wrapper, instantiate_sparsity(config))
    try:
        wrapper.load_state_dict(_of_network(checkpoint["state_dict"]))
    except RuntimeError as error:  # a page of names
        raise ValueError(
            f"checkpoint={path}: its weights are not those of the model in its config; it was "
            "changed, or not written by `sparsetrain fit`"
        ) from error
    state = checkpoint.get("sparsetrain_state")
    if not isinstance(state, dict) or not {"layers", "phase"} <= state.keys():
        raise ValueError(f"checkpoint={path} has no sparse state: `sparsetrain fit` writes one")
    load_sparse_state(wrapper, state["layers"])
    return Trained(wrapper.network.eval(), config, state["phase"])


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
