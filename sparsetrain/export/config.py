"""`config.json` of a folder: how its library builds the model."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sparsetrain.nn import SquaredReLU
from sparsetrain.nn.activations import act_of
from sparsetrain.nn.structure import is_mlp

CONFIG = "config.json"


def write_config(
    folder: Path, model: Any, dtype: torch.dtype | None, config: Mapping[str, Any] | None
) -> None:
    """Write `config`, or else what transformers or timm read, or else the model's class.

    dtype: to which floating-point weights were rounded. Raises ValueError where timm cannot tell
    how it built the model.
    """
    own = getattr(model, "config", None)
    if config is None and hasattr(own, "save_pretrained"):
        _write_transformers(folder, model, own, dtype)
    elif config is None and getattr(model, "pretrained_cfg", None):
        _write_timm(folder / CONFIG, model)
    else:
        kind = type(model)
        said = {"class": f"{kind.__module__}.{kind.__qualname__}"} if config is None else config
        (folder / CONFIG).write_text(json.dumps(dict(said), indent=2) + "\n", "utf-8")


def _write_transformers(folder: Path, model: Any, own: Any, dtype: torch.dtype | None) -> None:
    """With what a model's own `save_pretrained` adds: its class, its dtype, how it generates."""
    copies: dict[int, Any] = {}
    config = copy.deepcopy(own, copies)
    _name_squared_relu(model, copies)
    if hasattr(model, "save_pretrained"):  # else somebody's module that holds a config
        config.architectures = [type(model).__name__]
        setattr(
            config, "dtype" if hasattr(config, "dtype") else "torch_dtype", dtype or model.dtype
        )
        if model.can_generate() and model.generation_config is not None:
            model.generation_config.save_pretrained(folder)
    config.save_pretrained(folder)


def _name_squared_relu(model: Any, configs: Mapping[int, Any]) -> None:
    """Set `hidden_act` in the configs of MLPs that are all squared ReLU since they were trained
    with 2:4 activations. configs: copies by the id of what an MLP holds."""
    squared: dict[int, bool] = {}
    for mlp in filter(is_mlp, model.modules()):
        key = id(getattr(mlp, "config", None))
        squared[key] = squared.get(key, True) and type(act_of(mlp)) is SquaredReLU
    for key in [key for key, all_squared in squared.items() if all_squared and key in configs]:
        if hasattr(configs[key], "hidden_act"):
            configs[key].hidden_act = "relu2"


def _write_timm(path: Path, model: Any) -> None:
    from timm.models._hub import save_config_for_hf  # the public `save_for_hf` writes weights too

    try:
        save_config_for_hf(model, str(path))
    except ValueError as error:
        raise ValueError(
            f"config=None: timm cannot tell how it built the model ({error}): give config= with "
            "architecture, num_classes, model_args and pretrained_cfg"
        ) from error
