"""An MLP whose products are one function: its hidden activations are 2:4, or its weights are."""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsetrain.autograd import (
    compute_dtype,
    dropout24,
    dropout24_linear,
    packed_gelu_mlp,
    packed_squared_relu_mlp,
)
from sparsetrain.methods import Activation24, ActivationDropout24, ActivationMethod
from sparsetrain.nn.activations import gelu_of
from sparsetrain.nn.leaf import traced
from sparsetrain.nn.linear import SparseLinear
from sparsetrain.nn.phase import Phase
from sparsetrain.nn.roles import (
    Roles,
    act_of,
    after_of,
    fc1_of,
    fc2_of,
    known_roles,
    norm_of,
    normed,
    put_act,
)
from sparsetrain.nn.sharded import check_whole
from sparsetrain.nn.structure import KEPT, why_apart, why_fc2_apart, why_not_dropped
from sparsetrain.nn.swap import subclass_of, with_class
from sparsetrain.nn.watch import Watch, watched
from sparsetrain.products import BOTH, Forms, Packed, Product, unpruned

FIRST, SECOND = Forms(rows=True, columns=False, dense=True), Forms(False, True, True)
"""What the products of squared ReLU read of fc1's weight and of fc2's (autograd/mlp.py)."""


class SquaredReLU(nn.Module):
    """relu(x)² (So et al. 2021, Primer). Any shape; no parameters."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x).square()


class SparseMlp(nn.Module):
    """fc1, activation, fc2 of an MLP (`nn.roles`) as one function.

    Parameters, their names, the other children and methods are the dense module's own, of whose
    class it stays (`swap.subclass_of`). With `Activation24` the activation becomes squared ReLU, in
    dense phases too; `fc1` and `fc2` may be `SparseLinear`: then all six products are sparse. With
    None both are, around a GELU (as `nn.GELU`), and four products are. With `ActivationDropout24`
    the activation stays, and two products are sparse, in training alone.

    The children are not called where they are plain. Where one was replaced, adapted, parametrized,
    pruned or hooked, or drops out, the dense module's own forward runs and calls them; 2:4
    activations then warn that they are dense. 2:4 dropout stays before an fc2 that must be called,
    and warns that it makes that no faster.

    method: what lies between (`activation` may be a child's name); product: what multiplies;
    phase: whether it runs sparse now; watch: what the first sparse step sees of 2:4 activations
    (`nn.watch`), else None; roles: the names of its children.
    """

    method: ActivationMethod | None
    product: Product
    phase: Phase
    watch: Watch | None
    roles: Roles
    dense_class: type[nn.Module]

    @classmethod
    def from_dense(
        cls, dense: nn.Module, activation: ActivationMethod | None, product: Product, phase: Phase
    ) -> SparseMlp:
        """The sparse MLP on the parameters (shared) of `dense`; `structure.why_not` says what it
        must be."""
        mlp = with_class(dense, subclass_of(cls, type(dense)))
        mlp.method, mlp.product, mlp.phase, mlp.watch = activation, product, phase, None
        mlp.roles = known_roles(dense)
        if isinstance(activation, Activation24):
            put_act(mlp, SquaredReLU())
        elif activation is None and type(act_of(mlp)) is not nn.GELU:
            put_act(mlp, nn.GELU(gelu_of(act_of(mlp))))
        return mlp

    def to_dense(self) -> nn.Module:
        """The dense module on the same parameters. It keeps the activation it was trained with."""
        mlp = with_class(self, self.dense_class)
        for name in KEPT:
            del mlp.__dict__[name]
        return mlp

    @property
    def sparse(self) -> bool:
        """Whether it runs sparse now; False in dense phases of a schedule."""
        return self.phase.runs_sparse(self.training)

    def forward(self, x: Tensor) -> Tensor:
        if (node := traced(self, x)) is not None:
            return node
        in_evaluation = not isinstance(self.method, ActivationDropout24)
        if not self.sparse or not (self.training or in_evaluation):
            return self.dense_class.forward(self, x)
        # Compiled code is not watched: it would be compiled again for the steps after the first.
        watch = None if torch.compiler.is_compiling() else self.watch
        if watch is not None and torch.is_grad_enabled():
            watch.ran = True
        if isinstance(self.method, ActivationDropout24):
            return self._dropped(x)
        act = SquaredReLU if self.method is not None else nn.GELU
        if why := why_apart(self, act):
            if self.method is not None:
                _warn("hidden activations stay dense", why)
            return self.dense_class.forward(self, x)
        fc1, fc2, after, x = fc1_of(self), fc2_of(self), after_of(self), normed(self, x)
        dtype = compute_dtype(x, fc1.weight)
        given = x, _weight(fc1), fc1.bias, _weight(fc2), fc2.bias
        packed = self._packed(fc1, dtype), self._packed(fc2, dtype)
        if self.method is None:
            y = packed_gelu_mlp(*given, *packed, approximate=act_of(self).approximate)
        else:
            y = packed_squared_relu_mlp(*given, *packed, selection=self.method.selection)
        return y if after is None else after(y)

    def _dropped(self, x: Tensor) -> Tensor:
        """fc1, the activation, 2:4 dropout and fc2; as one function with fc2, where that is plain
        and sparse products run."""
        if why := why_not_dropped(self):
            _warn("2:4 dropout is off", why)
            return self.dense_class.forward(self, x)
        fc2, norm, after = fc2_of(self), norm_of(self), after_of(self)
        h, why = act_of(self)(fc1_of(self)(normed(self, x))), why_fc2_apart(self)
        if why and self.product.packs:
            _warn("2:4 dropout makes fc2 no faster", why)
        dtype = None if why else compute_dtype(h, fc2.weight)
        if dtype is not None and self.product.in_dtype(dtype, h.is_cuda).packs:
            y = dropout24_linear(h, _weight(fc2), fc2.bias, self._packed(fc2, dtype))
        else:
            h = dropout24(h)
            y = fc2(h if norm is None else norm(h))
        return y if after is None else after(y)

    def forms(self, linear: nn.Linear) -> Forms:
        """What the products read of the weight of fc1 or fc2."""
        if self.method is None:
            return BOTH
        if linear is fc2_of(self):
            return SECOND
        return FIRST if isinstance(self.method, Activation24) else BOTH

    def _packed(self, linear: nn.Linear, dtype: torch.dtype) -> Packed:
        if isinstance(linear, SparseLinear) and linear.sparse:
            return linear.packed(dtype, self.forms(linear))
        check_whole(linear.weight)
        return unpruned(linear.weight.detach(), self.product, dtype)

    def extra_repr(self) -> str:
        what = "2:4 weights and GELU as one"
        what = what if self.method is None else self.method.describe()
        state = "" if self.sparse else ", now dense"
        return f"{what}, engine={self.product}{state}"


def _warn(what: str, why: str) -> None:
    fix = "undo that, or exclude the MLP from the activation"
    warnings.warn(f"{what}: {why}; {fix}", stacklevel=3)


def _weight(linear: nn.Linear) -> Tensor:
    return watched(linear) if isinstance(linear, SparseLinear) else linear.weight
