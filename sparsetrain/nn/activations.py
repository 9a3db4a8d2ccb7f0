"""Whether the activation of an MLP is a GELU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from sparsetrain.nn.calls import Calls
from sparsetrain.nn.phase import evaluating
from sparsetrain.nn.swap import with_class
from sparsetrain.reference.gelu import APPROXIMATIONS

_FORMULA = {"mul", "div", "add", "pow", "erf", "tanh"}
"""Of these ops none does something else to other numbers: √(2/π) has 13 digits at least."""


@torch.no_grad()
def gelu_of(act: nn.Module) -> str:
    """Which GELU a module is, `none` or `tanh` as in `nn.GELU`; empty for any other activation.

    timm and transformers have classes of their own for it. One of them is torch's where its forward
    runs that op alone, in training and in evaluation, and returns what it gives; or computes the
    formula by erf or tanh, as GPT-2's does, and so another rounding of it.
    """
    if type(act) is nn.GELU:
        return act.approximate
    found = {_gelu_in(act, training) for training in (True, False)}
    return found.pop() if len(found) == 1 else ""


def _gelu_in(act: nn.Module, training: bool) -> str:
    x = torch.linspace(-9, 9, 64, dtype=torch.float64, device="cpu")
    with evaluating(act), Calls() as calls:
        try:
            y = with_class(act, type(act)).train(training)(x)
        except Exception:  # anybody's code; it is no GELU
            return ""
    counts = calls.counts()
    by_op = counts == {"gelu": 1}
    by_formula = counts.keys() <= _FORMULA and counts["erf"] + counts["tanh"] == 1
    if not (isinstance(y, torch.Tensor) and y.dtype == x.dtype and (by_op or by_formula)):
        return ""
    errors = {how: _distance(y, F.gelu(x, approximate=how)) for how in APPROXIMATIONS}
    return next((how for how, error in errors.items() if error <= 1e-11 * by_formula), "")


def _distance(y: torch.Tensor, expected: torch.Tensor) -> float:
    return float((y - expected).abs().max())
