"""Sparse products with gradients: one file per composite, each opens with its products."""

from sparsetrain.autograd.aten import FEATURES as ATEN_FEATURES
from sparsetrain.autograd.gelu_mlp import gelu_mlp24, pack_gelu_mlp24, packed_gelu_mlp24
from sparsetrain.autograd.linear import (
    Packed,
    compute_dtype,
    linear24,
    pack_linear24,
    packed_linear24,
)
from sparsetrain.autograd.mlp import (
    MlpWeights,
    pack_mlp24,
    packed_squared_relu_mlp24,
    squared_relu_mlp24,
)
from sparsetrain.autograd.operands import ENGINES, PORTABLE_ENGINES, Engine
from sparsetrain.autograd.soft_linear import (
    pack_soft_linear24,
    packed_soft_linear24,
    soft_linear24,
)

__all__ = [
    "ATEN_FEATURES",
    "ENGINES",
    "PORTABLE_ENGINES",
    "Engine",
    "MlpWeights",
    "Packed",
    "compute_dtype",
    "gelu_mlp24",
    "linear24",
    "pack_gelu_mlp24",
    "pack_linear24",
    "pack_mlp24",
    "pack_soft_linear24",
    "packed_gelu_mlp24",
    "packed_linear24",
    "packed_soft_linear24",
    "packed_squared_relu_mlp24",
    "soft_linear24",
    "squared_relu_mlp24",
]
