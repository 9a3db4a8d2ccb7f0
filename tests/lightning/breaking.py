"""Modules in which something breaks, and what trains them under StopOnNonFinite."""

import torch
from lightning_helpers import Stranger, every_step, make_body, make_trainer, vectors
from torch import nn

from sparsetrain.lightning import StopOnNonFinite

FROM_STEP = 2  # of 4


class NanWhileTold(nn.Module):
    """The identity, but NaN while `told`."""

    told = False

    def forward(self, x):
        return x * torch.nan if self.told else x


class InfiniteGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * torch.inf


class Breaks(Stranger):
    """Something in it breaks at a step, by default the third.

    weights: what they were just before.
    fused: train with an optimizer that can skip an update on the device; else with SGD.
    """

    def __init__(self, breaks, *, fused=False, step=FROM_STEP):
        super().__init__(nn.Sequential(*make_body(), NanWhileTold(), nn.Identity()))
        self.breaks, self.fused, self.step = breaks, fused, step

    def training_step(self, batch):
        if self.trainer.global_step == self.step:
            batch = self.breaks(self, batch)
            self.weights = {k: v.clone() for k, v in self.state_dict().items()}
        return super().training_step(batch)

    def configure_optimizers(self):
        if not self.fused:
            return super().configure_optimizers()
        return torch.optim.AdamW(self.parameters(), lr=self.lr, fused=True)


def nan_layer(module, batch):
    module.body[3].told = True
    return batch


def infinite_weight(module, batch):
    with torch.no_grad():
        module.body[2].weight[1, 3] = torch.inf
    return batch


def nan_image(module, batch):
    batch[0][1, 2] = torch.nan
    return batch


def infinite_gradient(module, batch):
    module.body[4].register_forward_hook(lambda m, x, out: InfiniteGradient.apply(out))
    return batch


def fit(folder, module, *callbacks):
    """Train four steps, with a checkpoint of each."""
    trainer = make_trainer(folder, StopOnNonFinite(), *callbacks, every_step(folder / "saved"))
    trainer.fit(module, vectors())
    return trainer


def assert_as_just_before(module):
    for name, value in module.state_dict().items():
        assert torch.equal(value, module.weights[name]), name
