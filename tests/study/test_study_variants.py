"""Each variant of the study, put together as a GPU's run puts it together."""

import pytest
from one import GPU_WORDS
from plan import data_sets, variants

from sparsetrain.nn import sparsify
from sparsetrain.recipe import compose, instantiate_sparsity

SMALL = [f"++model.options.{option}" for option in ("depth=1", "embed_dim=64", "num_heads=2")]


def one_of_each() -> list[str]:
    """A variant of each sparsity; the others differ from it in numbers."""
    first: dict[str, str] = {}
    for name, variant in variants().items():
        sparsity = next(word for word in variant.words if word.startswith("sparsity="))
        first.setdefault(sparsity, name)
    return list(first.values())


@pytest.mark.parametrize("name", one_of_each())
def test_a_variant_is_sparse_with_the_engine_of_the_study(name):
    from hydra.utils import instantiate

    recipe = f"recipe={data_sets()['cifar10'].recipe}"
    words = [recipe, *GPU_WORDS, *SMALL, "model.num_classes=10", *variants()[name].words]
    config = compose(words)
    spec = instantiate_sparsity(config)
    network = instantiate(config.model, _convert_="all")
    report = sparsify(network, spec, engine=config.engine, on_cpu=True)
    assert bool(report.converted) != (name == "dense")
