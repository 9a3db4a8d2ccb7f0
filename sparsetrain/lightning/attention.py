"""Memory-efficient attention from xFormers for timm's ViT blocks."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch
from timm.layers.attention import Attention
from torch import Tensor, nn

from sparsetrain.nn.swap import replace_module, with_class


class XformersAttention(Attention):
    """timm's `Attention` with `xformers.ops.memory_efficient_attention` for the softmax part.

    Same parameters, same result up to rounding. [B, N, C] → [B, N, C], CUDA only.
    """

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        if attn_mask is not None or is_causal:
            raise ValueError("model.attention=xformers: masked attention is not supported")
        attend = load_memory_efficient_attention()
        B, N, _ = x.shape
        gate = getattr(self, "gate", None)  # not there in timm < 1.0.28
        gate = None if gate is None else gate(x).sigmoid()
        q, k, v = self.qkv(x).reshape(B, N, 3, self.num_heads, self.head_dim).unbind(2)
        q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        dropout = self.attn_drop.p if self.training else 0.0
        x = attend(q, k, v, p=dropout, scale=self.scale).flatten(2)
        x = self.norm(x)
        if gate is not None:
            x = x * gate
        return self.proj_drop(self.proj(x))


def use_xformers(network: nn.Module) -> None:
    """Swap every timm `Attention` of the network, in place.

    Raises ValueError naming the cause where xFormers cannot run here, and where the network has
    no such attention.
    """
    load_memory_efficient_attention()
    if not torch.cuda.is_available():
        raise ValueError(
            "model.attention=xformers: xFormers computes attention on CUDA devices only and none "
            "is available; use model.attention=sdpa"
        )
    layers = [m for m in network.modules() if type(m) is Attention]
    if not layers:
        raise ValueError(
            "model.attention=xformers: the network has no timm Attention layer to swap; "
            "use model.attention=sdpa"
        )
    for layer in layers:
        replace_module(network, layer, with_class(layer, XformersAttention))


def load_memory_efficient_attention() -> Callable[..., Any]:
    """xFormers' attention function. Raises ValueError naming why it cannot be loaded."""
    # xFormers prints as a warning what the error below says better.
    logging.getLogger("xformers").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # Deprecations inside xFormers on newer torch; nothing a user of ours can act on.
            warnings.simplefilter("ignore")
            ops = importlib.import_module("xformers.ops")
            binary = importlib.import_module("xformers._cpp_lib")
    except (ImportError, OSError, RuntimeError) as error:
        raise ValueError(
            f"model.attention=xformers: xFormers cannot be imported: {error}"
        ) from None
    broken = getattr(binary, "_cpp_library_load_exception", None)
    if broken is not None:
        raise ValueError(f"model.attention=xformers: {_misfit(broken)}")
    return ops.memory_efficient_attention


def _misfit(broken: BaseException) -> str:
    """Why xFormers' binary does not load, which torch it was built for, and what to do."""
    here, cause = torch.__version__, _root_cause(broken)
    built = getattr(broken, "build_info", None)  # of xFormersInvalidLibException
    if built is None:
        reason = " ".join(str(broken).split("Please ")[0].split())
        return f"{reason} Cause: {cause}. Use model.attention=sdpa, or reinstall xformers"
    version = importlib.import_module("xformers").__version__
    fits = built.torch_version
    release = fits.partition("+")[0]  # PyPI has 2.10.0+cu128 as 2.10.0
    return (
        f"xFormers cannot load its binary: {version} was built for torch {fits} and torch {here} "
        f"is installed. Cause: {cause}. Use model.attention=sdpa, install torch=={release} beside "
        f"xformers {version}, or an xformers that was built for torch {here}"
    )


def _root_cause(error: BaseException) -> BaseException:
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error
