"""Layers that are packed for inference, as functions for sparse layers that train meet them."""

from __future__ import annotations

from torch import Tensor, nn

PACKED = (
    "is packed for inference and has no dense weight any more: work on the model that it was "
    "packed from"
)


class ForInference(nn.Module):
    """What has taken a linear layer's place for inference alone (`sparsetrain.inference`)."""

    def held(self) -> dict[str, Tensor]:
        """Its packed tensors by name, which are no buffers."""
        raise NotImplementedError


def refuse_packed(model: nn.Module, what: str) -> None:
    """Raise ValueError where layers are packed and `what`, a function for sparse layers, was
    called: it would do nothing, in silence."""
    for name, module in model.named_modules():
        if isinstance(module, ForInference):
            raise ValueError(f"{what}: {name or 'the model'} {PACKED}")
