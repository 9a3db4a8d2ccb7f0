"""Learned scores: which blocks are kept is trained, by a straight-through estimator.

What it does    every block (or value) has a score, and the highest are kept; the gradient of a
                score is that of its block's place in the mask, Σ w · ∂L/∂w, as if the mask were the
                score; pruned weights get no gradient, and come back when their score is high
The scores      start as magnitudes, 1 on average, when the first gradient is seen, and take steps
                s ← s − lr · g / rms(g), with rms over the layer: so `lr` means the same for every
                layer, loss and batch size, and the method's rule keeps no state but the scores.
                They are no parameters: optimizer, its schedule and the state dict are the dense
                model's
When            blocks, at densities down to 0.3; fine-tuning or from scratch
Cost            a pass over weight and gradient a step; a float32 for each block
Source          the idea: SuperBlock (torchao prototype, 2024), and the trained masks of Ramanujan
                et al., CVPR 2020, arXiv 1911.13299
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsetrain.methods.hooks import Seen
from sparsetrain.methods.scoring import Scoring


@dataclass(frozen=True)
class LearnedScores(Scoring):
    """Masks by trained scores, which start at 1 on average. lr: the rms step of a score, > 0."""

    lr: float = 0.01

    scored_in_step = "LearnedScores' update"

    def __post_init__(self) -> None:
        if not (isinstance(self.lr, (int, float)) and 0 < self.lr < math.inf):
            raise ValueError(f"lr={self.lr!r}: the step of learned scores must be > 0")

    def scores(self, scores: Tensor | None, seen: Seen) -> Tensor:
        weight, units = seen.weight.float(), seen.pattern.units
        if scores is None:
            size = units(weight.abs()).float()
            scores = size / size.mean().clamp(min=torch.finfo(size.dtype).tiny)
        slope = units(weight * seen.grad.float()).float()
        rms = slope.square().mean().sqrt().clamp(min=torch.finfo(slope.dtype).tiny)
        return scores - self.lr * slope / rms

    def describe(self, what: str) -> str:
        return f"{what}, learned scores"
