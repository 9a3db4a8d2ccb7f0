"""What the tests of gradients share: composites that pack for themselves, straight-through oracles,
and running something backward."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from ops_checks import assert_as_accurate_as_torch
from torch import Tensor

from sparsetrain.autograd import (
    compute_dtype,
    packed_gelu_mlp,
    packed_linear,
    packed_squared_relu_mlp,
)
from sparsetrain.methods import SSTE
from sparsetrain.nn.mlp import FIRST, SECOND
from sparsetrain.products import Engine, pack, product_of, unpruned
from sparsetrain.reference.gelu import Approximate
from sparsetrain.reference.masks24 import unpack_bits
from sparsetrain.select import EXACT, GREEDY, ROW, SQUARED, Selection

SELECTIONS = [EXACT, SQUARED, ROW, GREEDY]

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


def gelu_mlp24(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    *,
    masks: tuple[Tensor | None, Tensor | None] = (None, None),
    selection: Selection = EXACT,
    approximate: Approximate = "none",
    engine: Engine = "masked",
) -> Tensor:
    """`packed_gelu_mlp` of both weights under their masks; None chooses one now."""
    dtype, product = compute_dtype(x, w1), product_of(engine)
    packed1 = pack(w1.detach(), masks[0], selection, product, dtype)
    packed2 = pack(w2.detach(), masks[1], selection, product, dtype)
    return packed_gelu_mlp(x, w1, b1, w2, b2, packed1, packed2, approximate=approximate)


def squared_relu_mlp24(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    *,
    masks: tuple[Tensor | Selection | None, Tensor | Selection | None] = (None, None),
    selection: Selection = EXACT,
    engine: Engine = "masked",
) -> Tensor:
    """`packed_squared_relu_mlp` of weights as they are (None), under a mask, or under that which a
    selection chooses now. selection: of the activations."""
    dtype, product = compute_dtype(x, w1), product_of(engine)
    packed = []
    for w, mask, forms in ((w1, masks[0], FIRST), (w2, masks[1], SECOND)):
        if mask is None:
            packed.append(unpruned(w.detach(), product, dtype))
        elif isinstance(mask, Selection):
            packed.append(pack(w.detach(), None, mask, product, dtype, forms))
        else:
            packed.append(pack(w.detach(), mask, EXACT, product, dtype, forms))
    return packed_squared_relu_mlp(x, w1, b1, w2, b2, *packed, selection=selection)


def soft_linear24(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor,
    *,
    mvue: bool = True,
    engine: Engine = "masked",
) -> Tensor:
    """The layer of S-STE, whose weight is scale · S(weight)."""
    dtype, product = compute_dtype(x, weight), product_of(engine)
    packed = SSTE(mvue=mvue).pack(weight.detach(), None, scale, ROW, product, dtype)
    return packed_linear(x, weight, bias, packed, mvue=mvue)
