"""What a method of weights does around an optimizer step, beside its products.

`attach` calls these of every layer's method; a method overrides those that it needs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from sparsetrain.ops import mask24
from sparsetrain.patterns import Pattern, Scored


@dataclass(frozen=True)
class Seen:
    """A layer between a backward and its optimizer step.

    weight, grad: [O, I], whole; grad is that of the weight as the products used it, for pruned
        values too, without the factor of a GradScaler.
    mask: bits [O, ceil(I/8)], which the step kept. pattern: what it is of.
    density: the share that masks chosen before the next step keep. done: of the steps in which
        masks change, the share before that.
    """

    weight: Tensor
    grad: Tensor
    mask: Tensor
    pattern: Scored
    density: float
    done: float


class Hooks:
    """What a method does in a training step; nothing, unless it says so."""

    changes_gradient = False
    """Whether `change_gradient` is to be called in sparse steps."""

    resets = False
    """Whether weights and optimizer state are zero where a mask changed."""

    @property
    def in_step(self) -> tuple[str, str]:
        """What of it lives in the optimizer step, and what is missing without; empty if nothing."""
        return "", ""

    def why_not(self, pattern: Pattern) -> str:
        """Why it cannot train weights of a pattern; empty if it can."""
        return ""

    def looks(self, sparse: bool, due: bool) -> bool:
        """Whether `scores` is to be called in a step."""
        return False

    def scores(self, scores: Tensor | None, seen: Seen) -> Tensor | None:
        """What the next masks are chosen by: one for each unit of the pattern, float32; None for
        magnitudes. scores: those of before, None at first."""
        return scores

    def refuse(self, optimizer: Optimizer) -> None:
        """Called where `attach` is given the optimizer; raises ValueError for a kind of it that the
        method cannot train with."""

    def begin(self, optimizer: Optimizer) -> None:
        """Called where a sparse phase begins, for the optimizer that holds the weights."""

    def check(self, optimizer: Optimizer) -> None:
        """Called before each sparse step; raises ValueError where the optimizer cannot make it."""

    def change_gradient(
        self, grad: Tensor, weight: Tensor, mask: Tensor, scale: Tensor | None
    ) -> None:
        """Change the gradient [O, I] in place before the optimizer reads it.

        mask: bits. scale: a factor that the gradient still carries (a GradScaler's).
        """


@torch.no_grad()
def reset(tensors: Iterable[Tensor], stay: Tensor) -> None:
    """Zero tensors [O, I] in place but for what stays (bits)."""
    for tensor in tensors:
        tensor.copy_(mask24(tensor, stay))
