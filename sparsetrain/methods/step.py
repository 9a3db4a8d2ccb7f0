"""STEP: Adam's second moment comes from dense training, and stays.

What it does    trains dense until Adam's second moment v has settled, then divides it by its bias
                correction, freezes it, and trains with STE: noisy gradients of masked weights
                do not disturb v
When            with torch.optim's Adam or AdamW, and a dense warm-up (10–20 % of the steps)
Cost            STE's
Source          Lu et al., ICML 2023, arXiv 2302.01172 (its AutoSwitch finds the end of the warm-up;
                here it is the schedule's)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Adam, Optimizer

from sparsetrain.methods.ste import STE

_BETA2 = 1 - 2**-23
"""v changes by 1.2e-7 of itself a step: torch's Adam divides by 1 − β₂^step, which 1 makes 0."""

_STEP = 1e9
"""A step at which both bias corrections are 1, in float32 too."""


@dataclass(frozen=True)
class STEP(STE):
    """STE; Adam's second moment is frozen where the sparse phase begins (Lu et al., ICML 2023)."""

    def refuse(self, optimizer: Optimizer) -> None:
        # Others keep an exp_avg_sq too, and divide by it in another way: ADOPT without a bias
        # correction, NAdam with one of its own.
        if not isinstance(optimizer, Adam):
            raise ValueError(
                f"weight=STEP() with optimizer={type(optimizer).__name__}: it freezes Adam's "
                "second moment; use torch.optim.Adam or AdamW, or another method, as STE()"
            )

    def begin(self, optimizer: Optimizer) -> None:
        self.refuse(optimizer)  # it may have taken the weights after `attach`
        freeze_second_moment(optimizer)

    def check(self, optimizer: Optimizer) -> None:
        for number, group in enumerate(optimizer.param_groups):
            if group.get("betas", (0, 0))[1] != _BETA2:
                raise ValueError(
                    f"weight=STEP(): group {number} of {type(optimizer).__name__} was made in the "
                    "sparse phase, and has no second moment of the dense warm-up: load the state "
                    "of the optimizer before it"
                )

    def describe(self, what: str) -> str:
        return super().describe(what).replace("STE", "STEP", 1)


@torch.no_grad()
def freeze_second_moment(optimizer: Optimizer) -> None:
    """Keep Adam's exp_avg_sq as it is from now on, for all parameters of the optimizer.

    Both moments are divided by their bias corrections; β₂ of the groups and the steps of the state
    are set so that none is applied any more. They are part of the optimizer's state dict, so a
    resumed run goes on so. Raises ValueError for an optimizer without a step behind it.
    """
    for group in optimizer.param_groups:
        states = [optimizer.state[p] for p in group["params"] if p in optimizer.state]
        if not states or any("exp_avg_sq" not in state for state in states):
            raise ValueError(
                f"weight=STEP() with optimizer={type(optimizer).__name__}: it freezes Adam's "
                "second moment, and no step has made one yet; train dense at first "
                "(schedule.dense_warmup=0.1)"
            )
        for state in states:
            _debias(state, *group["betas"])
        group["betas"] = (group["betas"][0], _BETA2)


def _debias(state: dict[str, Any], beta1: float, beta2: float) -> None:
    step = float(state["step"])
    state["exp_avg"] /= 1 - beta1**step
    for name in ("exp_avg_sq", "max_exp_avg_sq"):
        if name in state:
            state[name] /= 1 - beta2**step
    if isinstance(state["step"], torch.Tensor):
        state["step"].fill_(_STEP)
    else:
        state["step"] = _STEP
