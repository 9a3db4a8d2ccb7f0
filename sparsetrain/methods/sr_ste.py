"""SR-STE: the straight-through estimator with decay on what is pruned.

What it does    adds λ (1 − m) ⊙ W to the gradient, so that pruned weights shrink and the
                mask settles; in the gradient and before Adam, after unscaling and clipping:
                as weight decay outside Adam it does not stop the flip rate from exploding
When            the default for training from scratch; choose λ so that the flip rate is
                0.60–0.95 of the dense run's in a short trial
Published       λ 6e-5 (GPT-2 124M, 774M), 2e-4 (350M, 1.5B), 6e-6 (BERT)
Default         2e-5, the study's for MLP weights of a small ViT (docs/accuracy.md)
Source          Zhou et al., ICLR 2021, arXiv 2102.04010; in the gradient with transposable
                masks: Hu et al., ICML 2024, arXiv 2404.01847
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsetrain.methods.ste import STE
from sparsetrain.ops import add_mask24_


@dataclass(frozen=True)
class SRSTE(STE):
    """STE with λ (1 − m) ⊙ W added to the gradient (Hu et al., ICML 2024). decay: λ, ≥ 0."""

    decay: float = 2e-5

    def __post_init__(self) -> None:
        if not (isinstance(self.decay, (int, float)) and 0 <= self.decay < math.inf):
            raise ValueError(f"decay={self.decay!r}: λ of SR-STE is a number ≥ 0, as 2e-5")

    changes_gradient = True

    @property
    def in_step(self) -> tuple[str, str]:
        return ("SR-STE's decay", "pruned weights will not shrink") if self.decay > 0 else ("", "")

    def change_gradient(
        self, grad: Tensor, weight: Tensor, mask: Tensor, scale: Tensor | None
    ) -> None:
        add_pruned_decay(grad, weight, mask, self.decay, scale)

    def describe(self, what: str) -> str:
        return super().describe(what).replace("STE", f"SR-STE {self.decay:g}", 1)


@torch.no_grad()
def add_pruned_decay(
    grad: Tensor, weight: Tensor, mask: Tensor, decay: float, grad_scale: Tensor | None = None
) -> None:
    """grad += decay · (1 − mask) ⊙ weight, in place.

    grad, weight: [O, I]; mask: bits [O, ceil(I/8)]. grad_scale: factor the gradient still
    carries, where an optimizer unscales inside its own kernel (fused AdamW under a GradScaler).
    """
    add_mask24_(grad, weight, mask, kept=0.0, pruned=decay, scale=grad_scale)
