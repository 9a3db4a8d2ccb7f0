"""Callbacks: they say when; the functions they call say what."""

from sparsetrain.lightning.callbacks.determinism import StepSeed
from sparsetrain.lightning.callbacks.ema import EMA
from sparsetrain.lightning.callbacks.interrupt import SaveOnInterrupt
from sparsetrain.lightning.callbacks.last import SaveLast
from sparsetrain.lightning.callbacks.monitor import SparsityMonitor
from sparsetrain.lightning.callbacks.non_finite import StopOnNonFinite
from sparsetrain.lightning.callbacks.snapshots import MaskSnapshots
from sparsetrain.lightning.callbacks.sparsify import SparsifyModel

__all__ = [
    "EMA",
    "MaskSnapshots",
    "SaveLast",
    "SaveOnInterrupt",
    "SparsifyModel",
    "SparsityMonitor",
    "StepSeed",
    "StopOnNonFinite",
]
