"""Activation 2:4: the hidden activations of an MLP, made 2:4 through squared ReLU.

What it does    replaces the activation by h = relu(z)² and keeps 2 of every 4 of h; with h
                50–95 % zero by itself little is lost: of the non-zeros 18.8 % at density
                0.5, 3.6 % at 0.2, 0.24 % at 0.05
Products        h @ w2.T, dy.T @ h (grad w2), dz @ w1 and dz.T @ x: four of six with dense
                weights, all six with transposable 2:4 weights
When            from scratch (it changes the activation), after a dense warm-up while h is
                still dense
Source          Haziza et al. 2025; So et al. 2021 (Primer, squared ReLU)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsetrain.autograd import (
    Engine,
    MlpWeights,
    Packed,
    pack_mlp24,
    packed_squared_relu_mlp24,
)
from sparsetrain.pattern import RULES, Rule


@dataclass(frozen=True)
class Activation24:
    """Hidden activations of MLPs 2:4, along features and along tokens.

    rule: `transposable` (one mask on tiles of 4 tokens × 4 features serves both),
        `transposable_l2` (the same by squares), `row` (each orientation has its own best mask) or
        `greedy` (for comparison).
    """

    rule: Rule = "transposable"

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"rule={self.rule!r}: choose one of {', '.join(RULES)}")

    def pack(
        self,
        w1: Tensor,
        w2: Tensor,
        mask1: Tensor | Rule | None,
        mask2: Tensor | Rule | None,
        dtype: torch.dtype,
        engine: Engine,
        into: Packed | None = None,
    ) -> Packed:
        """The weights as `mlp` multiplies them, in the dtype of the products. into: what this
        returned before, to write into where it can."""
        forms = None if into is None else MlpWeights(*into)
        return pack_mlp24(w1, w2, mask1, mask2, dtype, engine, forms)

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
        forms = MlpWeights(*packed)
        return packed_squared_relu_mlp24(x, w1, b1, w2, b2, forms, rule=self.rule, engine=engine)

    def describe(self) -> str:
        return f"2:4 activation, {self.rule}, squared ReLU"
