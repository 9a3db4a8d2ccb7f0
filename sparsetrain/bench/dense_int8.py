"""Dense linear layers in int8 through torch._int_mm: what 2:4 in int8 is compared with.

For inference: a scale for each row of the weight, quantized once, and for each token of the input,
in each forward. The product is int32; scales and bias are plain PyTorch, as quantizing is, which
torch.compile fuses with what comes before and after.

Dimension key:  T tokens   I inputs   O outputs
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparsetrain.bench.dense_fp8 import replace_linears

_LARGEST = 127.0


class StaticInt8Linear(nn.Module):
    """A linear layer for inference: its weight is quantized once, its input in each forward."""

    q_OI: Tensor
    scales_O: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        q_OI, scales = _quantized(linear.weight.detach())
        self.register_buffer("q_OI", q_OI)
        self.register_buffer("scales_O", scales.flatten())
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        q_TI, scales = _quantized(x.flatten(0, -2))
        y_TO = torch.ops.aten._int_mm(q_TI, self.q_OI.T) * scales * self.scales_O
        if self.bias is not None:
            y_TO = y_TO + self.bias
        return y_TO.to(x.dtype).unflatten(0, x.shape[:-1])


def make_static_int8(model: nn.Module, include: tuple[str, ...]) -> None:
    """Put StaticInt8Linear in place of the linear layers that a glob of `include` names."""
    replace_linears(model, include, StaticInt8Linear)


def _quantized(x_RC: Tensor) -> tuple[Tensor, Tensor]:
    """x in int8, and a scale for each row, float32 [R, 1]."""
    wide = x_RC.float()
    scales = wide.abs().amax(-1, keepdim=True).clamp(min=1e-12) / _LARGEST
    return (wide / scales).round().clamp(-_LARGEST, _LARGEST).to(torch.int8), scales
