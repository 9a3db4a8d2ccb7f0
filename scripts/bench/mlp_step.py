"""An MLP and its backward, in parts: all six products run.

forward    y = act(x w1.T + b1) w2.T + b2, under bfloat16 autocast; 2:4 weights are packed in it
backward   gradients of x, weights and biases, each new

T tokens   d features in and out   h hidden features
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparsetrain.bench.rounds import Parts, run_parts
from sparsetrain.bench.variants import Forward


class Mlp(nn.Module):
    """fc1, GELU, fc2: timm's `Mlp` by structure."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(features, hidden)
        self.act: nn.Module = nn.GELU()
        self.fc2 = nn.Linear(hidden, features)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    """What has an MLP: `sparsify` replaces children."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.mlp: nn.Module = Mlp(features, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x)


class MlpStep:
    """A block with an input and a gradient that stay on the device; `parts` is what a step does.

    forward: the block, or what torch.compile made of it.
    x: bfloat16 [T, d], requires grad; grad: bfloat16 [T, d].
    """

    def __init__(self, block: nn.Module, forward: Forward, x: Tensor, grad: Tensor) -> None:
        self.block, self.forward, self.x, self.grad = block, forward, x, grad
        self._nothing = torch.zeros(())
        self.y = self._nothing
        self.parts: Parts = {"forward": self._forward, "backward": self._backward}

    def run(self) -> None:
        run_parts(self.parts)

    def results(self) -> dict[str, Tensor]:
        """y [T, d] of a step, and the gradients of x and of each parameter."""
        self.run()
        y = self.y.detach()
        inputs = {"x": self.x, **dict(self.block.named_parameters())}
        found = {name: tensor.grad for name, tensor in inputs.items() if tensor.grad is not None}
        assert found.keys() == inputs.keys(), "each gets a gradient"
        self.clear()
        return {"y": y, **found}

    def clear(self) -> None:
        """Let go of y and the gradients."""
        self.y, self.x.grad = self._nothing, None
        self.block.zero_grad(set_to_none=True)

    def _forward(self) -> None:
        torch.compiler.cudagraph_mark_step_begin()
        self.clear()
        with self._autocast():
            self.y = self.forward(self.x)

    def _backward(self) -> None:
        self.y.backward(self.grad)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.x.device.type, torch.bfloat16)
