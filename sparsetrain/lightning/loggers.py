"""Weights & Biases without questions."""

from __future__ import annotations

import netrc
import os
from pathlib import Path
from urllib.parse import urlsplit

from sparsetrain.lightning.flavour import WandbLogger

_SERVER = "https://api.wandb.ai"


def wandb_logger(project: str, name: str, save_dir: str) -> WandbLogger:
    """A W&B logger, offline unless a key or WANDB_MODE says otherwise; it never asks.

    Offline runs lie under `save_dir`/wandb and go up later with `wandb sync`.
    Raises ValueError for WANDB_MODE=online without a key, where W&B would ask for one.
    """
    mode = os.environ.get("WANDB_MODE")
    if mode == "online" and not has_key():
        raise ValueError(
            "WANDB_MODE=online but there is no key: set WANDB_API_KEY, run `wandb login`, or "
            "unset WANDB_MODE to log offline"
        )
    offline = mode is None and not has_key()
    os.environ.setdefault("WANDB_SILENT", "true")
    logger = WandbLogger(project=project, name=name, save_dir=save_dir, offline=offline)
    # Lightning passes it to wandb.init, which from 0.22 warns of it whatever its value.
    logger._wandb_init.pop("anonymous", None)
    return logger


def has_key() -> bool:
    """Whether W&B can log in: WANDB_API_KEY, or an entry for its server in ~/.netrc."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    if not path.is_file():
        return False
    host = urlsplit(os.environ.get("WANDB_BASE_URL", _SERVER)).hostname or ""
    try:
        entry = netrc.netrc(path).authenticators(host)
    except netrc.NetrcParseError:
        return False
    return entry is not None and bool(entry[2])
