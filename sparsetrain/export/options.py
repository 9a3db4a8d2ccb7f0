"""What `save_pretrained` may be given beside a model, a folder and a format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch


def check_options(format: str, block: Any, dtype: Any, config: Any) -> None:
    """Raise ValueError naming the option and what to give."""
    if block is not None and format != "bsr":
        raise ValueError(f"block={block} with format={format}: blocks are of bsr; leave it out")
    two = isinstance(block, Sequence) and len(block) == 2
    if block is not None and not (two and all(isinstance(n, int) and n > 0 for n in block)):
        raise ValueError(f"block={block!r}: give rows and columns, as (64, 64)")
    floating = isinstance(dtype, torch.dtype) and dtype.is_floating_point
    if dtype is not None and format != "packed" and not floating:  # packed ones are quantize's
        raise ValueError(f"dtype={dtype!r}: give a floating-point one, as torch.bfloat16")
    if config is not None and not isinstance(config, Mapping):
        raise ValueError(f"config={config!r}: give what config.json is to hold, as a dict")
