"""Sparse products with gradients: one file per composite, each opens with its products."""

from sparsetrain.autograd.dropout24 import dropout24, dropout24_linear
from sparsetrain.autograd.gelu_mlp import packed_gelu_mlp
from sparsetrain.autograd.inputs import check_transforms, compute_dtype
from sparsetrain.autograd.linear import linear24, packed_linear
from sparsetrain.autograd.mlp import packed_squared_relu_mlp

__all__ = [
    "check_transforms",
    "compute_dtype",
    "dropout24",
    "dropout24_linear",
    "linear24",
    "packed_gelu_mlp",
    "packed_linear",
    "packed_squared_relu_mlp",
]
