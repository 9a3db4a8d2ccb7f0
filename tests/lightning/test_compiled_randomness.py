"""Each compiled step draws its own random numbers for stochastic depth and dropout.

A CUDA graph that repeated the numbers of its capture would drop the same values in every step. No
other test would show that.
"""

import pytest
import torch
from timm.layers.drop import DropPath
from torch import nn

from sparsetrain.lightning.callbacks.determinism import _seed_torch

STEPS = 30


@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty:UserWarning")
@pytest.mark.parametrize(
    ("device", "mode"),
    [
        ("cpu", "default"),
        pytest.param("cuda", "default", marks=pytest.mark.gpu),
        pytest.param("cuda", "reduce-overhead", marks=pytest.mark.gpu),
    ],
)
@pytest.mark.parametrize("layer", [DropPath(0.25), nn.Dropout(0.25)], ids=["depth", "dropout"])
def test_every_seed_is_a_draw_of_its_own(layer, device, mode):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA")
    torch.compiler.reset()
    weight = torch.ones(64, 8, device=device, requires_grad=True)
    step = torch.compile(layer.train(), mode=mode)

    def kept(seed: int) -> torch.Tensor:
        """Of each value, as the gradient has it: it is there, and not dropped."""
        _seed_torch(seed, torch.device(device))
        torch.compiler.cudagraph_mark_step_begin()
        weight.grad = None
        step(weight).sum().backward()
        assert weight.grad is not None
        return weight.grad.cpu() > 0

    draws = [kept(seed) for seed in range(STEPS)]
    assert len({tuple(draw.flatten().tolist()) for draw in draws}) == STEPS
    share = torch.stack(draws).float().mean()
    assert 0.7 < share < 0.8
    assert torch.equal(kept(STEPS - 1), draws[-1]), "a resumed run draws what it did"
