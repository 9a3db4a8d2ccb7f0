"""Sparse layers, and functions that make a model sparse, undo it, train it and look at it."""

from sparsetrain.nn.attach import attach
from sparsetrain.nn.attached import Attached
from sparsetrain.nn.convert import densify, sparsify
from sparsetrain.nn.dropout24 import Dropout24
from sparsetrain.nn.flops import count_tokens
from sparsetrain.nn.follow import follow
from sparsetrain.nn.inspect import LayerStats, density, inspect
from sparsetrain.nn.linear import SparseLinear, sparse_linears
from sparsetrain.nn.masks import phased_layers, set_sparse, update_masks
from sparsetrain.nn.mlp import SparseMlp, SquaredReLU
from sparsetrain.nn.phase import Phase
from sparsetrain.nn.report import LayerReport, Report, grouped, shape_text
from sparsetrain.nn.scope import packed_once
from sparsetrain.nn.sparsity import Part, Sparsity
from sparsetrain.nn.state import load_sparse_state, sparse_state

__all__ = [
    "Attached",
    "Dropout24",
    "LayerReport",
    "LayerStats",
    "Part",
    "Phase",
    "Report",
    "SparseLinear",
    "SparseMlp",
    "Sparsity",
    "SquaredReLU",
    "attach",
    "count_tokens",
    "densify",
    "density",
    "follow",
    "grouped",
    "inspect",
    "load_sparse_state",
    "packed_once",
    "phased_layers",
    "set_sparse",
    "shape_text",
    "sparse_linears",
    "sparse_state",
    "sparsify",
    "update_masks",
]
