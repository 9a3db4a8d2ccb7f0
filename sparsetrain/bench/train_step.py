"""One training step of a vision transformer, in parts.

forward     model and cross-entropy, under bfloat16 autocast; 2:4 weights are packed in it
backward
optimizer   fused AdamW on float32 parameters, then gradients set to None
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsetrain.bench.rounds import Parts, run_parts
from sparsetrain.bench.variants import Forward

_LR = 1e-4


class TrainStep:
    """A model, its optimizer and a batch that stays on the device; `parts` is what a step does.

    forward: the model, or what torch.compile made of it.
    images: float32 [B, 3, H, W]; labels: int64 [B]. loss: float32 scalar of the last step.
    """

    def __init__(self, model: nn.Module, forward: Forward, images: Tensor, labels: Tensor) -> None:
        self.model, self.forward, self.images, self.labels = model, forward, images, labels
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=_LR, fused=True)
        self.loss = torch.zeros(())
        self.parts: Parts = {
            "forward": self._forward,
            "backward": self._backward,
            "optimizer": self._update,
        }

    def run(self) -> None:
        run_parts(self.parts)

    def _forward(self) -> None:
        torch.compiler.cudagraph_mark_step_begin()
        with self._autocast():
            self.loss = F.cross_entropy(self.forward(self.images), self.labels)

    def _backward(self) -> None:
        self.loss.backward()
        self.loss = self.loss.detach()

    def _update(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.images.device.type, torch.bfloat16)
