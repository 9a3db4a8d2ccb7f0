"""Training with Lightning: the module, the callbacks, data in `lightning.data`.

Names are imported when they are asked for: callbacks need only a Lightning, the classifier and the
network timm and torchmetrics, `lightning.report` none of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
    from sparsetrain.lightning.classifier import AdamW, Classifier, Mix
    from sparsetrain.lightning.loggers import wandb_logger
    from sparsetrain.lightning.network import build_network
    from sparsetrain.lightning.progress_bar import progress

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

_HOMES = {
    "callbacks": (
        "EMA",
        "MaskSnapshots",
        "SaveLast",
        "SaveOnInterrupt",
        "SparsifyModel",
        "SparsityMonitor",
        "StepSeed",
        "StopOnNonFinite",
    ),
    "checkpoint": ("AtomicCheckpointIO", "read_checkpoint"),
    "classifier": ("AdamW", "Classifier", "Mix"),
    "loggers": ("wandb_logger",),
    "network": ("build_network",),
    "progress_bar": ("progress",),
}
"""The part that each name is imported from."""


def __getattr__(name: str) -> object:
    for part, names in _HOMES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(f"{__name__}.{part}"), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
