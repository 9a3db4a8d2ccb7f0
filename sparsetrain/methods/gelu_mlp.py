"""GELU between two linear layers with 2:4 weights, as one function with them.

What it does    nothing else than the three layers do; the backward reads z once for GELU's
                gradient, for the activation that grad weight needs and for the bias gradient
When            both weights are 2:4 and run native: `sparsify` sees to it
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsetrain.autograd import Engine, Packed, pack_gelu_mlp24, packed_gelu_mlp24
from sparsetrain.pattern import Rule
from sparsetrain.reference.gelu import Approximate


@dataclass(frozen=True)
class GeluMlp:
    """rule: of both masks. approximate: GELU's, as in `F.gelu`."""

    rule: Rule = "transposable"
    approximate: Approximate = "none"

    def pack(
        self,
        w1: Tensor,
        w2: Tensor,
        mask1: Tensor | None,
        mask2: Tensor | None,
        dtype: torch.dtype,
        engine: Engine,
        into: Packed | None = None,
    ) -> Packed:
        """The weights as `mlp` multiplies them, in the dtype of the products. into: what this
        returned before, to write into where it can."""
        return pack_gelu_mlp24(w1, w2, mask1, mask2, dtype, self.rule, engine, into)

    def mlp(
        self,
        x: Tensor,
        w1: Tensor,
        b1: Tensor | None,
        w2: Tensor,
        b2: Tensor | None,
        packed: Packed,
        engine: Engine,
    ) -> Tensor:
        return packed_gelu_mlp24(
            x,
            w1,
            b1,
            w2,
            b2,
            packed,
            rule=self.rule,
            approximate=self.approximate,
            engine=engine,
        )

    def describe(self) -> str:
        return "2:4 weights and GELU as one"
