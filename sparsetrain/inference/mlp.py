"""An MLP for inference, its GELU in a kernel of ours. In 16 bits:

    h_TH = gelu(x_TI @ w1_HI.T + b1)     one kernel; two where GELU is by tanh
    y_TO = h_TH @ w2_OH.T + b2

In float8_e4m3fn GELU is at the end of fc1's product, which writes h in 8 bits with scales from a
bound (`PackedLinear.gelu_of_rows`):

    q_TH = gelu(x_TI @ w1_HI.T + b1) / scales_T1      one kernel: z is never in memory
    y_TO = scales_T1 q_TH @ w2_OH.T + b2

int8 has no bits to lose to a bound. There GELU is in the pass that quantizes h, from the largest
magnitude of each row.

Dimension key:  T tokens   I inputs   H hidden   O outputs
"""

from __future__ import annotations

from torch import Tensor, nn

from sparsetrain.inference.linear import (
    PackedLinear,
    by_tokens,
    check_features,
    check_inference,
)
from sparsetrain.nn.activations import gelu_of
from sparsetrain.nn.leaf import traced
from sparsetrain.nn.roles import (
    Roles,
    act_of,
    after_of,
    fc1_of,
    fc2_of,
    known_roles,
    normed,
    put_act,
)
from sparsetrain.nn.structure import why_not_called
from sparsetrain.nn.swap import subclass_of, with_class
from sparsetrain.ops import gelu, gelu_quantize


class PackedMlp(nn.Module):
    """fc1, GELU, fc2 of packed 2:4 weights, with the children of an MLP (`nn.roles`); the GELU as
    `nn.GELU`. roles: the names of its children.

    Where one of them was replaced or hooked since, or drops out (Monte Carlo dropout), the dense
    module's own forward calls them.
    """

    dense_class: type[nn.Module]
    roles: Roles

    @classmethod
    def from_dense(cls, dense: nn.Module) -> PackedMlp:
        """On the children of `dense`, an MLP (`nn.structure.why_not`) whose linears are packed."""
        mlp = with_class(dense, subclass_of(cls, type(dense)))
        mlp.roles = known_roles(dense)
        put_act(mlp, nn.GELU(gelu_of(act_of(dense))))
        return mlp

    def forward(self, x: Tensor) -> Tensor:
        if (node := traced(self, x)) is not None:
            return node
        if why_not_packed(self) or why_not_called(self):
            return self.dense_class.forward(self, x)
        fc1, after = fc1_of(self), after_of(self)
        check_inference(self, x)
        check_features(x, fc1.in_features)
        x = normed(self, x)
        y = by_tokens(self._of_tokens, x, fc1.result_dtype(x))
        return y if after is None else after(y)

    def _of_tokens(self, x_TI: Tensor) -> Tensor:
        fc1, fc2, approximate = fc1_of(self), fc2_of(self), act_of(self).approximate
        if fc2.scales is None:
            if self._at_the_end:
                return fc2.of_tokens(fc1.gelu_of_tokens(x_TI))
            return fc2.of_tokens(gelu(fc1.of_tokens(x_TI), approximate))
        if self._at_the_end:
            rows = fc1.gelu_of_rows(*fc1.rows_of(x_TI), approximate)
        else:
            rows = gelu_quantize(fc1.of_tokens(x_TI), approximate, fc2.packed_dtype)
        return fc2.of_rows(*rows, x_TI.dtype)

    @property
    def _at_the_end(self) -> bool:
        """Whether fc1's product ends with GELU. In 16 bits there is the exact one alone."""
        fc1 = fc1_of(self)
        return fc1.ends_with_gelu and (fc1.scales is not None or act_of(self).approximate == "none")

    def extra_repr(self) -> str:
        if self._at_the_end:
            return "GELU at the end of fc1"
        in_16 = fc1_of(self).scales is None
        return "GELU in one pass" if in_16 else "GELU where fc2's input is quantized"


def why_not_packed(mlp: PackedMlp) -> str:
    """Why fc1 and fc2 are not packed in one dtype for native products, around GELU; empty if they
    are. Asked in every forward."""
    fc1, act, fc2, roles = fc1_of(mlp), act_of(mlp), fc2_of(mlp), known_roles(mlp)
    if not (type(fc1) is PackedLinear and type(fc2) is PackedLinear):
        return f"{roles.fc1} and {roles.fc2} are not both packed"
    if type(act) is not nn.GELU:
        return f"its activation is {type(act).__name__}, not GELU"
    if fc1.values.dtype != fc2.values.dtype:
        return f"{roles.fc1} and {roles.fc2} are packed in two dtypes"
    if fc1.product.name != "native":
        return "its products are not native"
    kept = roles.before, roles.fc1, roles.act, roles.fc2
    busy = [name for name, child in mlp.named_children() if name not in kept and not _idle(child)]
    return f"{busy[0]} does something" if busy else ""


def _idle(child: nn.Module) -> bool:
    if type(child) is nn.Dropout:
        return not (child.training and child.p)
    return type(child) is nn.Identity
