"""An MLP for inference whose GELU is computed at the end of fc1's product.

    h_TH = gelu(x_TI @ w1_HI.T + b1)     one kernel
    y_TO = h_TH @ w2_OH.T + b2

Dimension key:  T tokens   I inputs   H hidden   O outputs
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from sparsetrain.inference.linear import (
    PackedLinear,
    by_tokens,
    check_features,
    check_inference,
    dtype_in_16,
)
from sparsetrain.nn.leaf import traced
from sparsetrain.nn.structure import why_not_called
from sparsetrain.nn.swap import subclass_of, with_class
from sparsetrain.ops import matmul24

_PRODUCTS = ("fc1", "act", "fc2")
_IDLE = {nn.Dropout, nn.Identity}  # in evaluation


class PackedMlp(nn.Module):
    """fc1, GELU, fc2 of 16-bit 2:4 weights; timm's `Mlp` by structure, with its children.

    Where one of them was replaced or hooked since, the dense module's own forward calls them.
    """

    dense_class: type[nn.Module]
    fc1: PackedLinear
    act: nn.Module
    fc2: PackedLinear
    drop2: nn.Module  # may be absent

    @classmethod
    def from_dense(cls, dense: nn.Module) -> PackedMlp:
        """On the children of `dense`, an MLP (`nn.structure.why_not`) whose linears are packed."""
        return with_class(dense, subclass_of(cls, type(dense)))

    def forward(self, x: Tensor) -> Tensor:
        if (node := traced(self, x)) is not None:
            return node
        if not fits(self) or why_not_called(self):
            return self.dense_class.forward(self, x)
        check_inference(self, x)
        check_features(x, self.fc1.in_features)
        y = by_tokens(self._of_tokens, x, dtype_in_16(x, self.fc1.values))
        return self.drop2(y) if hasattr(self, "drop2") else y

    def _of_tokens(self, x_TI: Tensor) -> Tensor:
        fc1 = self.fc1
        bias = None if fc1.bias is None else fc1.bias.to(x_TI.dtype)
        h_TH = matmul24(fc1.values, fc1.meta, x_TI.T, bias, True, None, "gelu")
        return self.fc2.of_tokens(h_TH)

    def extra_repr(self) -> str:
        return "GELU at the end of fc1's product"


def fits(mlp: Any) -> bool:
    """Whether fc1 and fc2 are packed in one 16-bit dtype for native products, around exact GELU."""
    exact = type(mlp.act) is nn.GELU and mlp.act.approximate == "none"
    if not (exact and type(mlp.fc1) is PackedLinear and type(mlp.fc2) is PackedLinear):
        return False
    others = {type(child) for name, child in mlp.named_children() if name not in _PRODUCTS}
    alike = mlp.fc1.values.dtype == mlp.fc2.values.dtype
    packed = mlp.fc1.scales is None and mlp.fc2.scales is None
    return alike and packed and others <= _IDLE and mlp.fc1.product.name == "native"
