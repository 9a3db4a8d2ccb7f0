"""The products that a recipe's sparse layers run, with the sizes they have in training."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, open_dict
from torch import nn

from sparsetrain.bench.products import Shape
from sparsetrain.methods import SSTE
from sparsetrain.nn import Sparsity, count_tokens, sparsify
from sparsetrain.recipe import instantiate_sparsity

Named = tuple[str, Shape]
"""A product's name, of bench.products.PRODUCTS, and its sizes."""

_CLASSES = 1000  # of the head, where the data set decides; heads stay dense


def products_of_recipe(config: DictConfig) -> list[Named]:
    """The products of one step at `data.batch_size` images, each once.

    Raises ValueError for a recipe without sparsity.
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
    return layer_products(network, images, sparsity)


def layer_products(model: nn.Module, images: torch.Tensor, sparsity: Sparsity) -> list[Named]:
    """The products of the layers that `sparsity` makes sparse in model.network, in place."""
    counted = count_tokens(model.get_submodule("network"), images)
    tokens = {f"network.{name}": count for name, count in counted.items()}
    report = sparsify(model, sparsity, engine="masked")
    found: list[Named] = []
    for row in report.converted:
        if len(row.shape) == 2:
            out_features, in_features = row.shape
            shape = Shape(tokens[row.name], in_features, out_features)
            found += [(name, shape) for name in _of_weight(sparsity)]
        else:
            in_features, hidden, out_features = row.shape
            first = Shape(tokens[f"{row.name}.fc1"], in_features, hidden)
            second = Shape(first.tokens, out_features, hidden)
            found += [("dz24 dX", first), ("dz24 dW", first)]
            found += [("act24 forward", second), ("act24 dW", second)]
    return list(dict.fromkeys(found))


def _of_weight(sparsity: Sparsity) -> Iterable[str]:
    """The sparse products of a linear layer whose weight is 2:4."""
    method = sparsity.weight
    assert method is not None, "only then a linear layer is converted"
    yield "W24 forward"
    if sparsity.selection.both and not isinstance(method, SSTE):
        yield "W24 dX"
    if method.mvue:
        yield "dz24 dW"
