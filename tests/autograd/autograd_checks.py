"""What the tests of gradients share: straight-through oracles, and running something backward."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from ops_checks import assert_as_accurate_as_torch
from torch import Tensor

from sparsetrain.reference.masks24 import unpack_bits

Results = list[Any]  # tensors, None where there is none


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Give normal numbers that depend on the arguments only."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


class PassThrough(torch.autograd.Function):
    """`value` in the forward; its gradient goes to `source` as it is."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def masked_linear(x: Tensor, w: Tensor, b: Tensor | None, mask: Tensor) -> Tensor:
    """A linear layer under a mask of bits, in plain autograd with a straight-through weight."""
    kept = unpack_bits(mask, w.shape[1])
    return F.linear(x, PassThrough.apply(w, torch.where(kept, w.detach(), 0)), b)


def backward(function: Callable[..., Tensor], inputs: Results, grad: Tensor) -> Results:
    """Run a function on leaves made of `inputs` and back; its output, then every gradient."""
    leaves = [None if t is None else t.detach().clone().requires_grad_() for t in inputs]
    out = function(*leaves)
    out.backward(grad.to(out.dtype))
    return [out.detach(), *(None if leaf is None else leaf.grad for leaf in leaves)]


def double(tensors: Results) -> Results:
    return [None if t is None else t.double() for t in tensors]


def assert_all_as_accurate(got: Results, plain: Results, oracle: Results) -> None:
    """Hold the output and every gradient to the accuracy of PyTorch, in PyTorch's dtypes."""
    for ours, theirs, exact in zip(got, plain, oracle, strict=True):
        if exact is None:
            assert ours is None
            continue
        assert ours is not None
        assert theirs is not None
        assert ours.dtype == theirs.dtype
        assert_as_accurate_as_torch(ours, theirs, exact)
