"""transformers' Conv1D (of GPT-2) as the linear layer that it is.

Its weight lies [in, out]. Sparse layers, masks and products are of [out, in], so the layer becomes
an nn.Linear with the transposed weight; in state dicts the weight lies [in, out] as before, so that
files of either kind of model are read by both.
"""

from __future__ import annotations

import sys
from typing import Any

from torch import nn

from sparsetrain.nn.swap import replace_modules


def conv1d_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The Conv1D layers of a model by name."""
    # A model that has some has imported it; this package does not need transformers.
    module = sys.modules.get("transformers.pytorch_utils")
    kind = getattr(module, "Conv1D", None)
    if kind is None:
        return {}
    return {n: m for n, m in model.named_modules() if type(m) is kind}


def as_linear(conv: Any) -> nn.Linear:
    """The linear layer of a Conv1D: a weight [out, in] of its own, the same bias and mode."""
    rows, columns = conv.weight.shape
    linear = nn.Linear(rows, columns, device="meta")
    linear.weight = nn.Parameter(
        conv.weight.detach().T.contiguous(), requires_grad=conv.weight.requires_grad
    )
    linear.bias = conv.bias
    linear.train(conv.training)
    linear.register_state_dict_post_hook(_transpose_saved)
    # Not the public one: it refers to this module, and the sparse layer is another.
    linear._register_load_state_dict_pre_hook(_transpose_loaded)
    return linear


def replace_conv1d(model: nn.Module) -> list[tuple[nn.Module, nn.Linear]]:
    """Turn every Conv1D of a model into a linear layer, in place. Returns the pairs of old and
    new, for `put_back`."""
    pairs = [(conv, as_linear(conv)) for conv in conv1d_layers(model).values()]
    replace_modules(model, pairs)
    return pairs


def put_back(model: nn.Module, pairs: list[tuple[nn.Module, nn.Linear]]) -> None:
    """Undo `replace_conv1d`."""
    replace_modules(model, [(linear, conv) for conv, linear in pairs])


def _transpose_saved(
    module: nn.Module, state_dict: dict[str, Any], prefix: str, metadata: Any
) -> None:
    # Contiguous, as safetensors wants it.
    state_dict[f"{prefix}weight"] = state_dict[f"{prefix}weight"].T.contiguous()


def _transpose_loaded(state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
    if (key := f"{prefix}weight") in state_dict:
        state_dict[key] = state_dict[key].T
