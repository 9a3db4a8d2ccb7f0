"""The products that a recipe's sparse layers run, with the sizes they have in training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product as combinations

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, open_dict
from torch import nn

from sparsetrain.bench.products import PRODUCTS, Shape
from sparsetrain.bench.products8 import E4M3, problem_in
from sparsetrain.nn import (
    Part,
    SparseLinear,
    SparseMlp,
    Sparsity,
    count_tokens,
    sparse_linears,
    sparsify,
)
from sparsetrain.nn.gains import Products, products_of
from sparsetrain.nn.roles import fc1_of, known_roles
from sparsetrain.nn.structure import mlp_shape
from sparsetrain.patterns import NM
from sparsetrain.recipe import instantiate_sparsity

Named = tuple[str, Shape, torch.dtype]
"""A product's name, of bench.products.PRODUCTS, its sizes, and the dtype of its operands."""

_CLASSES = 1000  # of the head, where the data set decides; heads stay dense


def products_of_recipe(config: DictConfig, dtype: torch.dtype) -> list[Named]:
    """The products of one step at `data.batch_size` images, each once. dtype: of those that have no
    format of their own.

    Raises ValueError for a recipe without 2:4 products.
    """
    sparsity = instantiate_sparsity(config)
    if sparsity.dense:
        raise ValueError("this recipe trains dense: it has no products to tune")
    with open_dict(config):
        config.model.num_classes = config.model.num_classes or _CLASSES
    network = nn.Module()
    network.network = instantiate(config.model, _convert_="all")  # the names that recipes use
    network.to("meta")
    size = config.model.img_size
    images = torch.empty(config.data.batch_size, 3, size, size, device="meta")
    found = layer_products(network, images, sparsity, dtype)
    if not found:
        raise ValueError("this recipe has no 2:4 products: other patterns are multiplied dense")
    return found


def layer_products(
    model: nn.Module, images: torch.Tensor, sparsity: Sparsity, dtype: torch.dtype
) -> list[Named]:
    """The products of the layers that `sparsity` makes sparse in model.network, in place."""
    counted = count_tokens(model.get_submodule("network"), images)
    tokens = {f"network.{name}": count for name, count in counted.items()}
    formats = any(part.format for part in sparsity.rules)
    sparsify(model, sparsity, engine="auto" if formats else "masked")
    found: list[Named] = []
    mlps = {n: m for n, m in model.named_modules() if isinstance(m, SparseMlp)}
    for name, mlp in mlps.items():
        inputs, hidden, outputs = mlp_shape(mlp)
        fc1, count = fc1_of(mlp), tokens[f"{name}.{known_roles(mlp).fc1}"]
        part = Part(weight=None, activation=mlp.method, format=mlp.product.format)
        if isinstance(fc1, SparseLinear):
            format, selection = fc1.product.format, fc1.selection
            part = replace(part, weight=fc1.method, format=format, selection=selection)
        shapes = [Shape(count, inputs, hidden), Shape(count, hidden, outputs)]
        shapes.append(Shape(count, outputs, hidden))
        found += _named(products_of(count, (inputs, hidden, outputs), part), shapes, dtype)
    for name, layer in sparse_linears(model).items():
        if name.rpartition(".")[0] not in mlps and isinstance(layer.pattern, NM):
            format, count = layer.product.format, tokens[name]
            part = Part(weight=layer.method, selection=layer.selection, format=format)
            products = products_of(count, (layer.out_features, layer.in_features), part)
            shapes = [Shape(count, layer.in_features, layer.out_features)]
            found += _named(products, shapes, dtype)
    return list(dict.fromkeys(found))


def _named(products: Products, shapes: Sequence[Shape], dtype: torch.dtype) -> list[Named]:
    """Recorded products, in bfloat16 or fp8, as bench.products names them, to be tuned in dtype or
    fp8. Of names for the same sizes, the first."""
    return [
        next(
            (name, shape, E4M3 if problem.dtype == E4M3 else dtype)
            for shape, name in combinations(shapes, PRODUCTS)
            if problem_in(name, shape, problem.dtype) == problem
        )
        for problem in products.values()
    ]
