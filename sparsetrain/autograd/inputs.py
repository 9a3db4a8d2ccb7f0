"""What composites ask of their inputs: shapes, dtypes, and weights without NaN."""

from __future__ import annotations

import torch
from torch import Tensor


def compute_dtype(x: Tensor, weight: Tensor) -> torch.dtype:
    """The dtype the products run in: autocast's where it is on, else the weight's.

    float64 is not autocast, as in PyTorch. Raises ValueError where x and weight then differ.
    """
    device, double = autocast_device(x), torch.float64 in (x.dtype, weight.dtype)
    if torch.is_autocast_enabled(device) and not double:
        return torch.get_autocast_dtype(device)
    if x.dtype != weight.dtype:
        raise ValueError(
            f"x is {x.dtype} and weight {weight.dtype}: convert one"
            + ("" if double else ", or run under torch.autocast")
        )
    return weight.dtype


def autocast_device(x: Tensor) -> str:
    """The device of x as autocast calls it, which knows no meta device."""
    return "cpu" if x.is_meta else x.device.type


def rows_of(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x [..., I] as [T, I] in `dtype`; a vector is one row."""
    return x.to(dtype).flatten(0, -2) if x.ndim > 1 else x.to(dtype)[None]


def check_mlp(x: Tensor, w1: Tensor, w2: Tensor) -> None:
    """Refuse what does not multiply; under anomaly detection weights that hold NaN."""
    if x.ndim < 1 or x.shape[-1] != w1.shape[1] or w1.shape[0] != w2.shape[1]:
        raise ValueError(
            f"x {tuple(x.shape)}, w1 {tuple(w1.shape)}, w2 {tuple(w2.shape)}: "
            "expected [..., I], [H, I] and [O, H]"
        )
    check_weight(w1)
    check_weight(w2)


def check_weight(weight: Tensor) -> None:
    """Refuse a weight that holds NaN, under anomaly detection. Compiled code does not look."""
    if torch.compiler.is_compiling():
        return
    if torch.is_anomaly_enabled() and weight.isnan().any():
        raise ValueError(
            f"weight [{weight.shape[0]}, {weight.shape[1]}] holds {int(weight.isnan().sum())} NaN: "
            "a mask cannot be chosen from them"
        )
