"""A model as a checkpoint left it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from sparsetrain.lightning import read_checkpoint
from sparsetrain.nn import load_sparse_state, sparsify
from sparsetrain.recipe import instantiate_sparsity


@dataclass(frozen=True)
class Trained:
    """A network with its weights and its sparse state; config: what it was trained with."""

    network: nn.Module
    config: DictConfig
    phase: str | None


def load_trained(path: str) -> Trained:
    """Build the network of a checkpoint that `fit` wrote, load it, and restore its masks.

    Raises FileNotFoundError or ValueError naming what is wrong with the file.
    """
    checkpoint = read_checkpoint(path)
    saved = checkpoint.get("sparsetrain_config")
    if saved is None:
        raise ValueError(f"checkpoint={path} was not written by `sparsetrain fit`: no config in it")
    config = OmegaConf.create(saved["config"])
    assert isinstance(config, DictConfig)
    wrapper = nn.Module()
    wrapper.network = instantiate(config.model, _convert_="all")
    sparsify(wrapper, instantiate_sparsity(config))
    wrapper.load_state_dict(_of_network(checkpoint["state_dict"]))
    state = checkpoint["sparsetrain_state"]
    load_sparse_state(wrapper, state["layers"])
    return Trained(wrapper.network.eval(), config, state["phase"])


def _of_network(state_dict: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in state_dict.items() if key.startswith("network.")}
