"""Averages of weights, evaluated as the model that they are averages of."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparsetrain.nn.linear import SparseLinear
from sparsetrain.nn.masks import phased_layers


def follow(average: nn.Module, model: nn.Module) -> None:
    """Give `average`, a copy of `model` with averaged weights, the model's current sparse state.

        st.follow(ema, model)     # before each evaluation of it
        validate(ema.module)

    Its layers take the phase of the model's, its masks, which an evaluation uses where they are
    frozen or no 2:4 ones (else it chooses from the averaged weights), β of S-STE and scores. A copy
    has β and scores of the moment at which it was made, and chooses masks of its own. Either may be
    wrapped (timm's ModelEmaV3, AveragedModel, DDP, torch.compile). Lightning's WeightAveraging and
    `lightning.EMA` put averages into the model itself, and need no call.

    Raises ValueError where the sparse layers of the two differ.
    """
    layers, others = phased_layers(average), phased_layers(model)
    kinds = [[(type(m), *(p.shape for p in m.parameters())) for m in x] for x in (layers, others)]
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"average: it has {len(layers)} sparse layers and is no copy of the model, which has "
            f"{len(others)}: make it after sparsify(model, …)"
        )
    for layer, other in zip(layers, others, strict=True):
        layer.phase = other.phase
        if isinstance(layer, SparseLinear) and isinstance(other, SparseLinear):
            layer.mask, layer.scale = _copied(other.mask, layer), _copied(other.scale, layer)
            layer.scores = _copied(other.scores, layer)


def _copied(tensor: Tensor | None, layer: SparseLinear) -> Tensor | None:
    # Training changes it in place, which it may not with one made in inference mode.
    with torch.inference_mode(False):
        return None if tensor is None else tensor.to(layer.weight.device, copy=True)
