"""The network of a recipe: a timm model, with the attention that was asked for."""

from __future__ import annotations

import difflib
from typing import Any

from torch import nn

ATTENTIONS = ("sdpa", "xformers")


def build_network(
    name: str,
    img_size: int,
    num_classes: int,
    drop_path: float = 0.0,
    attention: str = "sdpa",
    options: dict[str, Any] | None = None,
) -> nn.Module:
    """`timm.create_model(name)` for square images of `img_size` pixels, untrained.

    drop_path: stochastic depth rate at the last block.
    attention: `sdpa` (PyTorch's fused attention) or `xformers` (memory-efficient attention).
    options: further arguments of the timm model, as `embed_dim` or `depth`.

    Raises ValueError for an unknown model (with the nearest names), an option it does not take,
    or an attention that cannot run here.
    """
    import timm

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        hint = f"near: {', '.join(near)}" if near else "see timm.list_models()"
        raise ValueError(f"model.name={name!r}: timm has no such model; {hint}")
    if attention not in ATTENTIONS:
        raise ValueError(f"model.attention={attention!r}: choose one of {', '.join(ATTENTIONS)}")
    try:
        network = timm.create_model(
            name,
            img_size=img_size,
            num_classes=num_classes,
            drop_path_rate=drop_path,
            **(options or {}),
        )
    except (TypeError, AssertionError) as error:  # timm asserts what does not fit together
        raise ValueError(
            f"model.name={name!r} does not take img_size={img_size} with options={options}: {error}"
        ) from error
    if attention == "xformers":
        from sparsetrain.lightning.attention import use_xformers

        use_xformers(network)
    return network
