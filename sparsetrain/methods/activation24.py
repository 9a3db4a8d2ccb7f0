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

from sparsetrain.select import EXACT, Selection


@dataclass(frozen=True)
class Activation24:
    """Hidden activations of MLPs 2:4, along features and along tokens.

    selection: `exact` and `greedy` serve both with one mask on tiles of 4 tokens × 4 features;
        `row` gives each orientation its own best mask.
    """

    selection: Selection = EXACT

    def describe(self) -> str:
        return f"2:4 activation, {self.selection}, squared ReLU"
