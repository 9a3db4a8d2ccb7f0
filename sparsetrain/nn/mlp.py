"""An MLP whose products are one function: its hidden activations are 2:4, or its weights are."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsetrain.autograd import Engine, Packed, compute_dtype
from sparsetrain.methods import Activation24, GeluMlp
from sparsetrain.nn.linear import SparseLinear
from sparsetrain.nn.packing import PackingLayer
from sparsetrain.nn.sharded import is_wrapped
from sparsetrain.nn.swap import with_class
from sparsetrain.pattern import Rule


class SquaredReLU(nn.Module):
    """relu(x)² (So et al. 2021, Primer). Any shape; no parameters."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x).square()


class SparseMlp(PackingLayer):
    """fc1, activation, fc2 as one function; timm's `Mlp` by structure.

    Parameters, their names and the other children are the dense module's own. With `Activation24`
    the activation becomes squared ReLU, in dense phases too; `fc1` and `fc2` may be `SparseLinear`:
    then their masks enter the products and all six are sparse. With `GeluMlp` both are, and four
    are sparse. In sparse phases the parameters of both are read without calling them, so forward
    hooks put on them later do not run.

    activation: what lies between; engine: see `autograd.operands`; sparse: False runs it dense.
    """

    activation: Activation24 | GeluMlp
    engine: Engine
    dense_class: type[nn.Module]
    act: nn.Module
    fc1: nn.Linear
    fc2: nn.Linear
    drop2: nn.Module  # may be absent

    @classmethod
    def from_dense(
        cls, dense: nn.Module, activation: Activation24 | GeluMlp, engine: Engine
    ) -> SparseMlp:
        """The sparse MLP on the parameters (shared) of `dense`. See `why_not` for what it must
        be."""
        reason = why_not(dense)
        if reason:
            raise ValueError(f"{type(dense).__name__} cannot become a SparseMlp: {reason}")
        mlp = with_class(dense, cls)
        mlp.activation, mlp.engine, mlp.sparse = activation, engine, True
        mlp.dense_class = type(dense)
        mlp.held = mlp.memory = None
        mlp.held_of = mlp.held_state = mlp.memory_for = ()
        if isinstance(activation, Activation24):
            mlp._modules["act"] = SquaredReLU()
        return mlp

    def to_dense(self) -> nn.Module:
        """The dense module on the same parameters. It keeps the activation it was trained with."""
        mlp = with_class(self, self.dense_class)
        for name in ("activation", "engine", "dense_class", *PackingLayer.__annotations__):
            del mlp.__dict__[name]
        return mlp

    def forward(self, x: Tensor) -> Tensor:
        if not self.sparse:
            y = self.fc2(self.act(self.fc1(x)))
        else:
            fc1, fc2 = self.fc1, self.fc2
            for fc in (fc1, fc2):
                if isinstance(fc, SparseLinear):
                    fc.expect_decay()
            packed = self.packed(compute_dtype(x, fc1.weight))
            y = self.activation.mlp(
                x, fc1.weight, fc1.bias, fc2.weight, fc2.bias, packed, self.engine
            )
        return self.drop2(y) if hasattr(self, "drop2") else y

    def weights(self) -> tuple[Tensor, Tensor]:
        return self.fc1.weight, self.fc2.weight

    def masks(self) -> tuple[Tensor, ...]:
        linears = [fc for fc in (self.fc1, self.fc2) if isinstance(fc, SparseLinear)]
        return tuple(mask for linear in linears for mask in linear.masks())

    def how(self) -> tuple[Any, ...]:
        dense = [_mask_of(fc) is None for fc in (self.fc1, self.fc2)]
        return self.activation, self.engine, *dense

    def pack(self, dtype: torch.dtype, into: Packed | None = None) -> Packed:
        w1, w2 = self.weights()
        if isinstance(self.activation, GeluMlp):  # which knows the rule of masks that are not kept
            mask1, mask2 = _kept_mask(self.fc1), _kept_mask(self.fc2)
            return self.activation.pack(w1, w2, mask1, mask2, dtype, self.engine, into)
        masks = _mask_of(self.fc1), _mask_of(self.fc2)
        return self.activation.pack(w1, w2, *masks, dtype, self.engine, into)

    def extra_repr(self) -> str:
        state = "" if self.sparse else ", now dense"
        return f"{self.activation.describe()}, engine={self.engine}{state}"


def is_mlp(module: nn.Module) -> bool:
    """Whether the module has the children of timm's `Mlp`: fc1, act, fc2."""
    return all(isinstance(getattr(module, n, None), nn.Module) for n in ("fc1", "act", "fc2"))


def why_not(module: nn.Module) -> str | None:
    """Why a module with the children of an MLP cannot be one function; None if it can."""
    if not is_mlp(module):
        return "it has no children fc1, act and fc2"
    if is_wrapped(module):
        return "it was itself given to fully_shard: call sparsify before"
    fc1, fc2 = module.fc1, module.fc2
    plain = {type(fc1), type(fc2)} <= {nn.Linear, SparseLinear}
    if not (plain and isinstance(fc1, nn.Linear) and isinstance(fc2, nn.Linear)):
        return f"fc1 is {type(fc1).__name__} and fc2 {type(fc2).__name__}, not plain nn.Linear"
    if fc1.out_features != fc2.in_features:
        return "it is gated (fc1 gives more features than fc2 takes)"
    known = {"fc1", "act", "drop1", "norm", "fc2", "drop2", "drop"}
    others = [name for name, _ in module.named_children() if name not in known]
    if others:
        return f"it has further children: {', '.join(others)}"
    if not isinstance(getattr(module, "norm", nn.Identity()), nn.Identity):
        return "it normalizes between act and fc2"
    for name in ("drop1", "drop"):
        if getattr(getattr(module, name, None), "p", 0.0):
            return f"it drops out between act and fc2 ({name}.p > 0)"
    for name in ("fc1", "act", "drop1", "norm", "drop", "fc2"):
        child = getattr(module, name, None)
        kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        if any(getattr(child, kind, None) for kind in kinds):
            return f"{name} has hooks, which would not run"
    bad = [f for f in (fc1.in_features, fc1.out_features, fc2.out_features) if f % 4]
    if bad:
        return f"{bad[0]} features are not a multiple of 4"
    return None


def _mask_of(linear: nn.Linear) -> Tensor | Rule | None:
    """The mask of its weight, or the rule of one to be chosen if none is kept; None for a dense
    weight."""
    if not isinstance(linear, SparseLinear) or not linear.sparse:
        return None
    return linear.method.rule if linear.mask is None else linear.mask


def _kept_mask(linear: nn.Linear) -> Tensor | None:
    return linear.mask if isinstance(linear, SparseLinear) else None
