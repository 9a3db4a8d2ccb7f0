"""`config.json` of a folder: how its library builds the model."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sparsetrain.nn import SquaredReLU
from sparsetrain.nn.roles import act_of, roles_of

CONFIG = "config.json"


def write_config(
    folder: Path, model: Any, dtype: torch.dtype | None, config: Mapping[str, Any] | None
) -> set[str]:
    """Write `config`, or else what transformers or timm read, or else the model's class.

    dtype: to which floating-point weights were rounded. Returns the names of the squared ReLUs that
    a model built of the file has. Raises ValueError where timm cannot tell how it built the model.
    """
    own = getattr(model, "config", None)
    if config is None and hasattr(own, "save_pretrained"):
        return _write_transformers(folder, model, own, dtype)
    if config is None and getattr(model, "pretrained_cfg", None):
        _write_timm(folder / CONFIG, model)
    else:
        kind = type(model)
        said = {"class": f"{kind.__module__}.{kind.__qualname__}"} if config is None else config
        (folder / CONFIG).write_text(json.dumps(dict(said), indent=2) + "\n", "utf-8")
    return set()


def _write_transformers(folder: Path, model: Any, own: Any, dtype: torch.dtype | None) -> set[str]:
    """With what a model's own `save_pretrained` adds: its class, its dtype, how it generates."""
    copies: dict[int, Any] = {}
    config = copy.deepcopy(own, copies)
    named = _name_squared_relu(model, copies)
    if hasattr(model, "save_pretrained"):  # else somebody's module that holds a config
        config.architectures = [type(model).__name__]
        setattr(
            config, "dtype" if hasattr(config, "dtype") else "torch_dtype", dtype or model.dtype
        )
        if model.can_generate() and model.generation_config is not None:
            model.generation_config.save_pretrained(folder)
    config.save_pretrained(folder)
    return named


def _name_squared_relu(model: Any, configs: Mapping[int, Any]) -> set[str]:
    """Set `hidden_act` in the configs of MLPs that are all squared ReLU since they were trained
    with 2:4 activations, and return the names of those activations. configs: copies by the id of
    what an MLP holds."""
    mlps: dict[int, dict[str, Any]] = {}
    for name, mlp in model.named_modules():
        if roles := roles_of(mlp):
            full = f"{name}.{roles.act}".lstrip(".")
            mlps.setdefault(id(getattr(mlp, "config", None)), {})[full] = act_of(mlp)
    named: set[str] = set()
    for key, acts in mlps.items():
        squared = all(type(act) is SquaredReLU for act in acts.values())
        if squared and hasattr(configs.get(key), "hidden_act"):
            configs[key].hidden_act = "relu2"
            named |= acts.keys()
    return named


def _write_timm(path: Path, model: Any) -> None:
    from timm.models._hub import save_config_for_hf  # the public `save_for_hf` writes weights too

    try:
        save_config_for_hf(model, str(path))
    except ValueError as error:
        raise ValueError(
            f"config=None: timm cannot tell how it built the model ({error}): give config= with "
            "architecture, num_classes, model_args and pretrained_cfg"
        ) from error
