"""Training with Lightning: the module, the callbacks, data in `lightning.data`.

The classifier and the network import timm and torchmetrics on first use, so callbacks need only a
Lightning.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from sparsetrain.lightning.callbacks import (
    EMA,
    MaskSnapshots,
    SaveLast,
    SaveOnInterrupt,
    SparsifyModel,
    SparsityMonitor,
    StepSeed,
    StopOnNonFinite,
)
from sparsetrain.lightning.checkpoint import AtomicCheckpointIO, read_checkpoint
from sparsetrain.lightning.loggers import wandb_logger
from sparsetrain.lightning.progress import progress

if TYPE_CHECKING:
    from sparsetrain.lightning.classifier import AdamW, Classifier, Mix
    from sparsetrain.lightning.network import build_network

__all__ = [
    "EMA",
    "AdamW",
    "AtomicCheckpointIO",
    "Classifier",
    "MaskSnapshots",
    "Mix",
    "SaveLast",
    "SaveOnInterrupt",
    "SparsifyModel",
    "SparsityMonitor",
    "StepSeed",
    "StopOnNonFinite",
    "build_network",
    "progress",
    "read_checkpoint",
    "wandb_logger",
]

_HOMES = {"classifier": ("AdamW", "Classifier", "Mix"), "network": ("build_network",)}


def __getattr__(name: str) -> object:
    for part, names in _HOMES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(f"{__name__}.{part}"), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
