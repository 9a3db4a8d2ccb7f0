"""Making one function of an MLP with GELU whose weights are 2:4 (autograd/gelu_mlp.py)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sparsetrain.methods import STE, GeluMlp
from sparsetrain.nn.linear import SparseLinear
from sparsetrain.nn.mlp import SparseMlp, is_mlp, why_not
from sparsetrain.nn.sharded import is_sharded
from sparsetrain.nn.swap import replace_module


def fuse_gelu(model: nn.Module) -> int:
    """Make one function of each MLP with GELU whose two weights are 2:4 and run native; how many.

    Only of those that compute fc2(GELU(fc1(x))) and nothing else, which is tried. MVUE and S-STE
    have products of their own.
    """
    fused = 0
    mlps: list[Any] = list(model.modules())
    for module in mlps:
        if module is model or not _native_gelu(module) or not _computes_that_alone(module):
            continue
        approximate = "tanh" if module.act.approximate == "tanh" else "none"
        between = GeluMlp(module.fc1.method.rule, approximate)
        replace_module(model, module, SparseMlp.from_dense(module, between, "native"))
        fused += 1
    return fused


def fused_note(fused: int) -> str:
    """What a report says of so many; empty for none."""
    what = "fc1, GELU and fc2 as one function: hooks put on these later do not run."
    return f"{fused} MLPs run {what}" if fused else ""


def _native_gelu(module: Any) -> bool:
    if not is_mlp(module) or type(module.act) is not nn.GELU or why_not(module) is not None:
        return False
    for linear in (module.fc1, module.fc2):
        if not isinstance(linear, SparseLinear) or linear.engine != "native":
            return False
        if not isinstance(linear.method, STE) or linear.method.mvue:
            return False
    return module.fc1.method.rule == module.fc2.method.rule


@torch.no_grad()
def _computes_that_alone(module: Any) -> bool:
    """Whether its forward is that of its children, on a few numbers, in training and evaluation."""
    fc1, fc2 = module.fc1, module.fc2
    if fc1.weight.is_meta or is_sharded(fc1.weight):
        return False
    on_gpu = [fc1.weight.device] if fc1.weight.is_cuda else []
    mode, sparse = module.training, (fc1.sparse, fc2.sparse)
    fc1.sparse = fc2.sparse = False
    try:
        with torch.random.fork_rng(devices=on_gpu):
            x = fc1.weight.new_empty(3, 5, fc1.in_features).normal_()
            expected = fc2(module.act(fc1(x)))
            for training in (True, False):
                # Not called, so that its own hooks do not run; they are kept.
                if not torch.equal(type(module.train(training)).forward(module, x), expected):
                    return False
    except TypeError:  # it wants other arguments
        return False
    finally:
        module.train(mode)
        fc1.sparse, fc2.sparse = sparse
    return True
