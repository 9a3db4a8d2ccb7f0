"""Why a linear layer cannot have 2:4 weights."""

from __future__ import annotations

from torch import nn

from sparsetrain.methods import WeightMethod


def weight_obstacles(
    model: nn.Module, linears: dict[str, nn.Linear], method: WeightMethod | None
) -> dict[str, str]:
    """Why a linear layer cannot have 2:4 weights, by name."""
    obstacles = {}
    for name, linear in linears.items():
        parent_name, _, child = name.rpartition(".")
        bypass = _bypass(model.get_submodule(parent_name), child)
        features = {"in_features": linear.in_features}
        # The MVUE op wants whole groups of features too.
        if method is not None and (method.rule != "row" or method.mvue):
            features["out_features"] = linear.out_features
        odd = [f"{k}={v}" for k, v in features.items() if v % 4]
        if not name:
            obstacles[name] = "it is the model itself: wrap it in another module"
        elif bypass is not None:
            obstacles[name] = bypass
        elif type(linear) is not nn.Linear:
            obstacles[name] = f"{type(linear).__name__} is not a plain nn.Linear"
        elif odd:
            obstacles[name] = f"{', '.join(odd)} is not a multiple of 4"
        elif not linear.weight.is_floating_point():
            obstacles[name] = f"its weight is {linear.weight.dtype}"
    return obstacles


def _bypass(parent: nn.Module, child: str) -> str | None:
    """That a module uses the weight of a linear child without calling it; None if it calls it."""
    name = f"{type(parent).__name__} reads its weight without calling it"
    if isinstance(parent, nn.MultiheadAttention):
        return name
    if isinstance(parent, nn.TransformerEncoderLayer) and child in ("linear1", "linear2"):
        fused = parent.self_attn.batch_first and parent.activation_relu_or_gelu
        return f"{name} in eval mode (batch_first=True)" if fused else None
    # timm's BEiT, EVA and Swin v2 put a bias together and call F.linear.
    separate = getattr(parent, "qkv_bias_separate", False)
    if child == "qkv" and getattr(parent, "q_bias", None) is not None and not separate:
        return f"{name}, to add q_bias and v_bias"
    return None
