"""Whether weights are 2:4 as others want them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparsetrain.nn import sparse_linears
from sparsetrain.nn.for_inference import refuse_packed
from sparsetrain.patterns import NM
from sparsetrain.pruning.conv1d import conv1d_layers

_DTYPES = (torch.float16, torch.bfloat16, torch.int8)
_ROWS, _COLUMNS = 32, 64  # torch's CUTLASS kernels of 16 bits; cuSPARSELt takes 16 and 16
_INT8_COLUMNS = 128


def check_tensorrt(model: nn.Module, include: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Check what TensorRT's sparse kernels ask of weights, and return the layers that were checked.

    For each output channel, and each place in a kernel, at least two of every four consecutive
    *input channels* are zero: along `in` of a linear weight [out, in], along `in` of a convolution
    [out, in, height, width]. Weights are those that an evaluation multiplies by.

    include: names of layers; the sparse ones if none is given, or those that are half zero where
        the model has no sparse layers.
    Raises ValueError naming the first layer that does not, and where there is nothing to check.
    """
    if isinstance(include, str):
        raise ValueError(f"include={include!r}: give a tuple of names, as ({include!r},)")
    weights = _weights(model, include)
    for name, weight in weights.items():
        along_input = weight.flatten(2).transpose(1, 2) if weight.ndim > 2 else weight
        channels = along_input.shape[-1]
        if channels % 4:
            raise ValueError(
                f"{name}: {channels} input channels are not a multiple of 4, so TensorRT runs it "
                "dense: leave the layer out"
            )
        if bad := NM(2, 4).count_violations(along_input):
            groups = along_input.numel() // 4
            raise ValueError(
                f"{name}: {bad} of {groups} fours along the input channels have more than two "
                "non-zeros, so TensorRT runs it dense: train or prune it with pattern NM(2, 4)"
            )
    return tuple(weights)


def check_semi_structured(name: str, weight: Tensor) -> None:
    """Check what `torch.sparse.to_sparse_semi_structured` asks of a weight [out, in]. Raises
    ValueError naming the layer and the fix."""
    columns = _INT8_COLUMNS if weight.dtype == torch.int8 else _COLUMNS
    if weight.shape[0] % _ROWS or weight.shape[1] % columns:
        raise ValueError(
            f"{name}.weight is {'×'.join(map(str, weight.shape))}, and torch's semi-structured "
            f"kernels take multiples of {_ROWS}×{columns}: leave the layer dense"
        )
    if bad := NM(2, 4).count_violations(weight):
        raise ValueError(f"{name}.weight is not 2:4 along its rows in {bad} places: prune it 2:4")
    if weight.dtype not in _DTYPES:
        dtype = str(weight.dtype).removeprefix("torch.")
        raise ValueError(
            f"{name}.weight is {dtype}, and torch's semi-structured tensors are float16, bfloat16 "
            "or int8: give dtype=bfloat16, or convert the model before"
        )


def _weights(model: nn.Module, include: tuple[str, ...]) -> Mapping[str, Tensor]:
    sparse = sparse_linears(model)
    if include:
        modules = dict(model.named_modules())
        for name in include:
            if not isinstance(getattr(modules.get(name), "weight", None), Tensor):
                raise ValueError(f"include: the model has no layer {name!r} with a weight")
    names = include or tuple(sparse) or tuple(half_zero(model))
    if not names:
        refuse_packed(model, "check_tensorrt")
        raise ValueError("the model has no sparse layer, and none whose weight is half zero")
    return {
        name: sparse[name].evaluated_weight() if name in sparse else out_in(model, name)
        for name in names
    }


def half_zero(model: nn.Module) -> list[str]:
    """Linear layers (transformers' Conv1D too) and convolutions whose weight is zero in half of its
    values or more."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    layers: dict[str, Any] = {n: m for n, m in model.named_modules() if isinstance(m, kinds)}
    layers |= conv1d_layers(model)
    weights = {name: layer.weight for name, layer in layers.items()}
    return [n for n, w in weights.items() if int(w.count_nonzero()) <= w.numel() / 2]


def out_in(model: nn.Module, name: str) -> Tensor:
    """The weight of a layer as [out, in, …]. Conv1D stores its weight as [in, out]."""
    weight = model.get_submodule(name).get_parameter("weight").detach()
    return weight.T if name in conv1d_layers(model) else weight


def lies_in_out(model: nn.Module, name: str, saved: Tensor) -> bool:
    """Whether a weight is [in, out] in the model's state dict, as those of Conv1D are, also where
    `prune` made it an nn.Linear."""
    weight = model.get_submodule(name).get_parameter("weight")
    return name in conv1d_layers(model) or saved.data_ptr() != weight.data_ptr()
