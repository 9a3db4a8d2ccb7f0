"""A copy of a model to be written, which evaluates as the model does."""

from __future__ import annotations

import copy

from torch import nn

from sparsetrain.nn import follow


def whole_copy(model: nn.Module) -> nn.Module:
    """A deep copy with the model's masks, which a plain one has only where they are frozen."""
    copied = copy.deepcopy(model)
    follow(copied, model)
    return copied
