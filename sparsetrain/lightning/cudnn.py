"""cuDNN's attention, left out where its gradients may be NaN.

Before 9.26 its backward on H100 and H200 gives NaN for the queries where the tokens are half a
tile over whole ones (64, 192, 320, …) and a row of scores is far below zero: the other half of the
tile counts as scores of 0, whose exponential overflows (pytorch#196678). PyTorch prefers cuDNN
there, from 2.11 on with CUDA 13. Two of six runs of a ViT of 64 tokens stopped
at gradients of queries, keys and values that were not finite; none of six did without cuDNN.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.compiler import config as compiler_config
from torch.overrides import TorchFunctionMode

from sparsetrain.nn import count_tokens

FIXED = 92600
"""The first version without it."""

TILE = 128


class _Lengths(TorchFunctionMode):
    """Records how many queries and keys each call of PyTorch's attention has."""

    def __init__(self) -> None:
        self.found: set[int] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            self.found |= {x.shape[-2] for x in args[:2]}
        return func(*args, **(kwargs or {}))


def attention_lengths(network: nn.Module, img_size: int) -> set[int]:
    """Of PyTorch's attention in a forward of square images; nothing is computed."""
    with _Lengths() as lengths:
        count_tokens(network, torch.empty(2, 3, img_size, img_size, device="meta"))
    return lengths.found


def at_risk(lengths: Iterable[int]) -> list[int]:
    """Those for which cuDNN's backward may give NaN."""
    return sorted(n for n in lengths if n % TILE == TILE // 2)


def leave_out_cudnn(network: nn.Module, img_size: int) -> tuple[str, ...]:
    """Have PyTorch choose another attention in this process where the network's is at risk; says
    so. What was compiled with cuDNN's is not taken from torch.compile's cache."""
    version = torch.backends.cudnn.version() if torch.cuda.is_available() else None
    if version is None or version >= FIXED or not torch.backends.cuda.cudnn_sdp_enabled():
        return ()
    lengths = at_risk(attention_lengths(network, img_size))
    if not lengths:
        return ()
    torch.backends.cuda.enable_cudnn_sdp(False)
    compiler_config.cache_key_tag = "attention without cuDNN"
    return (
        f"attention without cuDNN {version}: of {lengths[0]} tokens its gradients may be NaN "
        "(pytorch#196678)",
    )
