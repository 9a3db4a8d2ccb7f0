"""Whether the activation of an MLP is a GELU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from sparsetrain.nn.calls import Calls
from sparsetrain.nn.phase import evaluating
from sparsetrain.nn.swap import with_class


@torch.no_grad()
def gelu_of(act: nn.Module) -> str:
    """Which GELU a module is, `none` or `tanh` as in `nn.GELU`; empty for any other activation.

    timm and transformers have classes of their own for it. One of them is torch's where its forward
    runs that op alone, in training and in evaluation, and returns what it gives.
    """
    if type(act) is nn.GELU:
        return act.approximate
    found = {_gelu_in(act, training) for training in (True, False)}
    return found.pop() if len(found) == 1 else ""


def _gelu_in(act: nn.Module, training: bool) -> str:
    x = torch.linspace(-3, 3, 16, device="cpu")
    with evaluating(act), Calls() as calls:
        try:
            y = with_class(act, type(act)).train(training)(x)
        except Exception:  # anybody's code; it is no GELU
            return ""
    if list(calls.counts()) != ["gelu"] or len(calls.ops) > 1:
        return ""
    approximate = calls.ops[0][1].get("approximate", "none")
    same = isinstance(y, torch.Tensor) and torch.equal(y, F.gelu(x, approximate=approximate))
    return approximate if same else ""
