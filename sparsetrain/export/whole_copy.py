"""A copy of a model to be written, which evaluates as the model does."""

from __future__ import annotations

import copy

from torch import nn

from sparsetrain.nn import follow
from sparsetrain.nn.sharded import is_sharded


def whole_copy(model: nn.Module) -> nn.Module:
    """A deep copy with the model's masks, which a plain one has only where they are frozen. Raises
    ValueError for a sharded model."""
    for name, parameter in model.named_parameters():
        if is_sharded(parameter):
            raise ValueError(
                f"{name} is sharded: load the whole state dict, and sparse_state, into a model "
                "that is not, and save that"
            )
    copied = copy.deepcopy(model)
    follow(copied, model)
    return copied
