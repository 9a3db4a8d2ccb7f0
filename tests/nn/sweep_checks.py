"""What must hold of any model that is made sparse: the sweep's check."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

import sparsetrain as st
from sparsetrain.nn import Report

Inputs = Mapping[str, Any]
"""Named arguments of a forward."""


def tensors(output: Any) -> Iterator[Tensor]:
    """The floating-point tensors of any output, in order."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from tensors(value)
    elif isinstance(output, (list, tuple)):
        for value in output:
            yield from tensors(value)


def run(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """The outputs of a forward whose random numbers are the same each time."""
    torch.manual_seed(1)
    return list(tensors(model(**inputs)))


def check_model(model: nn.Module, inputs: Inputs) -> tuple[Report, list[str]]:
    """One sparse step and a dense export; returns the report and the layers that did not run.

    The step raises where something reads past a layer that is reported sparse. The exported model
    multiplies in evaluation by what the sparse one did, so its outputs have the same bits.
    """
    report = st.sparsify(model, st.Sparsity(), engine="masked")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    attached = st.attach(model, optimizer, total_steps=2)
    loss = torch.stack([y.float().square().mean() for y in run(model.train(), inputs)]).sum()
    loss.backward()
    optimizer.step()
    idle = attached.idle
    model.eval()
    with torch.no_grad():
        sparse = run(model, inputs)
        st.densify(model, apply_masks=True)
        dense = run(model, inputs)
    for before, after in zip(sparse, dense, strict=True):
        torch.testing.assert_close(after, before, rtol=0, atol=0, equal_nan=True)
    return report, idle
