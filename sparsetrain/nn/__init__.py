"""Sparse layers, and functions that make a model sparse, undo it, and look at it."""

from sparsetrain.nn.convert import densify, sparse_linears, sparsify
from sparsetrain.nn.gains import count_tokens
from sparsetrain.nn.inspect import LayerStats, density, inspect
from sparsetrain.nn.linear import SparseLinear
from sparsetrain.nn.mlp import SparseMlp, SquaredReLU
from sparsetrain.nn.phase import (
    AttachedDecay,
    decay_pruned_weights,
    load_sparse_state,
    pack_weights,
    release_weights,
    set_sparse,
    sparse_state,
    update_masks,
)
from sparsetrain.nn.report import LayerReport, Report, grouped, shape_text
from sparsetrain.nn.sparsity import Sparsity

__all__ = [
    "AttachedDecay",
    "LayerReport",
    "LayerStats",
    "Report",
    "SparseLinear",
    "SparseMlp",
    "Sparsity",
    "SquaredReLU",
    "count_tokens",
    "decay_pruned_weights",
    "densify",
    "density",
    "grouped",
    "inspect",
    "load_sparse_state",
    "pack_weights",
    "release_weights",
    "set_sparse",
    "shape_text",
    "sparse_linears",
    "sparse_state",
    "sparsify",
    "update_masks",
]
