"""Dense linear layers in fp8 through torch._scaled_mm: what 2:4 in fp8 is compared with.

Dynamic scales for each row of both operands of forward and grad input, the grad weight in 16 bits:
torchao's recipe `rowwise_with_gw_hp`, but that the grad input's weight has scales of its own.
Quantizing is plain PyTorch, which torch.compile fuses with what comes before. For inference weights
are quantized once.

Dimension key:  T tokens   I inputs   O outputs
"""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatch
from typing import Any, Literal, TypeGuard

import torch
from torch import Tensor, nn

Sharing = Literal["row", "tensor"]
"""What of an operand shares a scale."""

_E4M3 = torch.float8_e4m3fn
_LARGEST = 448.0


class Fp8Linear(nn.Linear):
    """A linear layer on the same parameters."""

    @classmethod
    def from_dense(cls, linear: nn.Linear) -> Fp8Linear:
        layer = cls(linear.in_features, linear.out_features, linear.bias is not None, "meta")
        layer.weight, layer.bias = linear.weight, linear.bias
        return layer.train(linear.training)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            x_TI = x.flatten(0, -2).bfloat16()
            y_TO = _Linear.apply(x_TI, self.weight.bfloat16())
            if self.bias is not None:
                y_TO = y_TO + self.bias.bfloat16()
        return y_TO.unflatten(0, x.shape[:-1])


class StaticFp8Linear(nn.Module):
    """A linear layer for inference: its weight is quantized once, its input in each forward."""

    q_OI: Tensor
    scales: Tensor

    def __init__(self, linear: nn.Linear, sharing: Sharing) -> None:
        super().__init__()
        q_OI, scales = _quantized(linear.weight.detach(), sharing)
        self.register_buffer("q_OI", q_OI)
        self.register_buffer("scales", scales)
        self.bias = linear.bias
        self.sharing: Sharing = sharing

    def forward(self, x: Tensor) -> Tensor:
        q_TI, scales = _quantized(x.flatten(0, -2), self.sharing)
        y_TO = _multiply(q_TI, scales, self.q_OI, self.scales, self.bias)
        return y_TO.unflatten(0, x.shape[:-1])


def make_static_fp8(model: nn.Module, include: tuple[str, ...], sharing: Sharing) -> None:
    """Put StaticFp8Linear in place of the linear layers, in bfloat16, that a glob names."""
    replace_linears(model, include, lambda linear: StaticFp8Linear(linear, sharing))


def make_fp8(model: nn.Module, include: tuple[str, ...]) -> None:
    """Put Fp8Linear in place of the linear layers that a glob of `include` names."""
    replace_linears(model, include, Fp8Linear.from_dense)


def is_named(layer: nn.Module, path: str, include: tuple[str, ...]) -> TypeGuard[nn.Linear]:
    """Whether it is a plain linear layer, and a glob of `include` names its path in the model."""
    return type(layer) is nn.Linear and any(fnmatch(path, glob) for glob in include)


def replace_linears(
    model: nn.Module, include: tuple[str, ...], new: Callable[[nn.Linear], nn.Module]
) -> None:
    """Put new(layer) in place of the linear layers that a glob of `include` names."""
    for name, parent in list(model.named_modules()):
        for child, layer in list(parent.named_children()):
            path = f"{name}.{child}" if name else child
            if is_named(layer, path, include):
                setattr(parent, child, new(layer))


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TI: Tensor, weight_OI: Tensor) -> Tensor:
        ctx.save_for_backward(x_TI, weight_OI)
        return _product(x_TI, weight_OI)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        (grad_TO,), (x_TI, weight_OI) = grads, ctx.saved_tensors
        return _product(grad_TO, weight_OI.T.contiguous()), grad_TO.T @ x_TI


def _product(a_MK: Tensor, b_NK: Tensor) -> Tensor:
    """a bᵀ in bfloat16."""
    return _multiply(*_quantized(a_MK, "row"), *_quantized(b_NK, "row"), None)


def _multiply(
    a_MK: Tensor, scales_a: Tensor, b_NK: Tensor, scales_b: Tensor, bias_N: Tensor | None
) -> Tensor:
    if not a_MK.is_cuda:  # a CPU has no product with scales by row
        out_MN = (a_MK.float() * scales_a) @ (b_NK.float() * scales_b).T
        return (out_MN if bias_N is None else out_MN + bias_N).bfloat16()
    return torch.ops.aten._scaled_mm(
        a_MK, b_NK.T, scales_a, scales_b.T, bias_N, out_dtype=torch.bfloat16, use_fast_accum=True
    )


def _quantized(x: Tensor, sharing: Sharing) -> tuple[Tensor, Tensor]:
    """x in e4m3, and a scale for each row, or one."""
    wide = x.float()
    amax = wide.abs().amax(-1 if sharing == "row" else (0, 1), keepdim=True)
    scales = amax.clamp(min=1e-12) / _LARGEST
    return (wide / scales).clamp(-_LARGEST, _LARGEST).to(_E4M3), scales
