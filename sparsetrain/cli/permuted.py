"""`permute=true` of `fit`: units change places once, before the first masks."""

from __future__ import annotations

from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from sparsetrain.cli.show import show_lines
from sparsetrain.nn import Sparsity
from sparsetrain.permutation import permute


def permute_once(
    module: nn.Module,
    sparsity: Sparsity,
    config: DictConfig,
    saved: dict[str, Any] | None,
    device: torch.device,
) -> str:
    """Permute the module that a run starts with, and return what that won, in a line; empty
    where nothing was permuted.

    saved: the checkpoint that the run goes on from. Its weights come later, and lie in their order:
        nothing is permuted a second time, and the line is that of the checkpoint.
    Raises ValueError for such a checkpoint that was not permuted, and where nothing would be won.
    """
    if saved is not None:
        done = (saved.get("sparsetrain_config") or {}).get("permuted", "")
        if config.permute and not done:
            raise ValueError(
                f"permute=true with checkpoint={config.checkpoint}, which was not permuted: its "
                "masks and its optimizer's state lie in the order of its weights; leave permute "
                "out, or give permute=true to the `prune` that writes it"
            )
        return done
    if not config.permute:
        return ""
    report = permute(module, sparsity, device=device)
    if not report.layers:
        reasons = [f"{name}: {why}" for name, why in report.left.items()]
        why = reasons[0] if reasons else "no layer of an MLP or of attention is 2:4"
        raise ValueError(f"permute=true changes nothing ({why}): leave it out")
    line = report.summary()
    show_lines((f"permuted: {line}",))
    return line
