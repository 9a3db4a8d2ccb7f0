"""Training with Lightning: the module, the callbacks, data in `lightning.data`."""

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
from sparsetrain.lightning.progress import progress

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
