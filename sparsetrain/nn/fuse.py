"""Making one function of an MLP with GELU whose weights are 2:4 (autograd/gelu_mlp.py)."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import nn

from sparsetrain.methods import STE, GeluMlp
from sparsetrain.nn.linear import SparseLinear
from sparsetrain.nn.mlp import SparseMlp, is_mlp, why_not
from sparsetrain.nn.sharded import is_sharded
from sparsetrain.nn.swap import replace_module


def fuse_gelu(model: nn.Module) -> dict[str, str]:
    """Make one function of each MLP with GELU whose two weights are 2:4 and run native, where that
    is possible; of each by name, why it is not, empty where it is one now."""
    outcome = {}
    mlps: list[tuple[str, Any]] = list(model.named_modules())
    for name, module in mlps:
        if not _is_native_gelu(module):
            continue
        outcome[name] = why = _why_apart(name, module)
        if not why:
            approximate = "tanh" if module.act.approximate == "tanh" else "none"
            between = GeluMlp(module.fc1.method.rule, approximate)
            replace_module(model, module, SparseMlp.from_dense(module, between, "native"))
    return outcome


def fused_note(outcome: dict[str, str]) -> str:
    """What a report says of it, a line for those that are one and for each reason."""
    lines = []
    for why, count in sorted(Counter(outcome.values()).items()):
        mlps = f"{count} MLP{'' if count == 1 else 's'}"
        lines.append(
            f"{mlps}: fc1, GELU and fc2 not as one function, so slower: {why}."
            if why
            else f"{mlps}: fc1, GELU and fc2 as one function; hooks put on these later do not run."
        )
    return "\n".join(lines)


def _is_native_gelu(module: Any) -> bool:
    return (
        is_mlp(module)
        and type(module.act) is nn.GELU
        and all(isinstance(fc, SparseLinear) for fc in (module.fc1, module.fc2))
        and module.fc1.engine == module.fc2.engine == "native"
    )


def _why_apart(name: str, module: Any) -> str:
    """Why its products cannot be one function; empty if they can."""
    methods = module.fc1.method, module.fc2.method
    if not name:
        return "it is the model itself, wrap it in another module"
    if why := why_not(module):
        return why
    if not all(isinstance(method, STE) and not method.mvue for method in methods):
        return "MVUE and S-STE have products of their own"
    if module.fc1.weight.is_meta or is_sharded(module.fc1.weight):
        return "its weights are sharded or on the meta device"
    if not _computes_that_alone(module):
        return "its forward is not fc2(act(fc1(x)))"
    return ""


@torch.no_grad()
def _computes_that_alone(module: Any) -> bool:
    """Whether its forward is that of its children, on a few numbers, in training and evaluation."""
    fc1, fc2 = module.fc1, module.fc2
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
