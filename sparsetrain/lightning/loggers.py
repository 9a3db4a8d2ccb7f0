"""Weights & Biases without questions."""

from __future__ import annotations

import netrc
import os
from pathlib import Path

from pytorch_lightning.loggers import WandbLogger

_HOST = "api.wandb.ai"


def wandb_logger(project: str, name: str, save_dir: str) -> WandbLogger:
    """A W&B logger, offline unless a key or WANDB_MODE says otherwise; it never asks.

    Offline runs lie under `save_dir`/wandb and go up later with `wandb sync`.
    """
    offline = "WANDB_MODE" not in os.environ and not has_key()
    os.environ.setdefault("WANDB_SILENT", "true")
    logger = WandbLogger(project=project, name=name, save_dir=save_dir, offline=offline)
    # Lightning passes it to wandb.init, which from 0.22 warns of it whatever its value.
    logger._wandb_init.pop("anonymous", None)
    return logger


def has_key() -> bool:
    """Whether W&B can log in: WANDB_API_KEY or an entry in ~/.netrc."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    if not path.is_file():
        return False
    try:
        return netrc.netrc(path).authenticators(_HOST) is not None
    except netrc.NetrcParseError:
        return False
