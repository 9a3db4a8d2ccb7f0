"""Pruning after training: which weights to keep, from the weights alone or with calibration data.

`prune` is the whole of it; a method is one small file and a frozen value.
"""

from sparsetrain.pruning.finished import FinishedLayers
from sparsetrain.pruning.job import Method
from sparsetrain.pruning.magnitude import Magnitude
from sparsetrain.pruning.prune import prune
from sparsetrain.pruning.report import PrunedLayer, PruneReport
from sparsetrain.pruning.sparsegpt import SparseGPT
from sparsetrain.pruning.wanda import Wanda
from sparsetrain.pruning.weight_norm import WeightNorm

__all__ = [
    "FinishedLayers",
    "Magnitude",
    "Method",
    "PruneReport",
    "PrunedLayer",
    "SparseGPT",
    "Wanda",
    "WeightNorm",
    "prune",
]
