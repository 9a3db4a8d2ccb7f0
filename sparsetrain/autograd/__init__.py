"""Sparse products with gradients: one file per composite, each opens with its products."""

from sparsetrain.autograd.aten import FEATURES as ATEN_FEATURES
from sparsetrain.autograd.linear import linear24, soft_linear24
from sparsetrain.autograd.mlp import squared_relu_mlp24
from sparsetrain.autograd.operands import ENGINES, PORTABLE_ENGINES, Engine

__all__ = [
    "ATEN_FEATURES",
    "ENGINES",
    "PORTABLE_ENGINES",
    "Engine",
    "linear24",
    "soft_linear24",
    "squared_relu_mlp24",
]
