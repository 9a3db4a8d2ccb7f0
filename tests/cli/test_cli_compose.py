"""Every recipe with every sparsity: composed, built small, and run forward and backward."""

import pytest
import torch
import torch.nn.functional as F
from cli_helpers import ROOT
from hydra.utils import instantiate

from sparsetrain.cli.overrides import check, with_demo
from sparsetrain.nn import decay_pruned_weights, sparsify
from sparsetrain.recipe import compose, instantiate_sparsity, recipe_names, store_recipes

SPARSITIES = sorted(path.stem for path in (ROOT / "configs" / "sparsity").glob("*.yaml"))
SMALL = [f"++model.options.{o}" for o in ("depth=1", "embed_dim=64", "num_heads=2", "patch_size=4")]


@pytest.mark.parametrize("recipe", recipe_names())
def test_a_recipe_trains_with_every_sparsity(recipe):
    for sparsity in SPARSITIES:
        words = [f"recipe={recipe}", f"sparsity={sparsity}", *SMALL, "model.img_size=16"]
        config = compose([*words, "model.num_classes=5"])
        network = instantiate(config.model, _convert_="all")
        spec = instantiate_sparsity(config)
        report = sparsify(network, spec)
        linears, mlps = 2 * (spec.weight is not None), spec.activation is not None
        assert len(report.converted) == linears + mlps
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        decay_pruned_weights(network, optimizer)
        before = [p.detach().clone() for p in network.parameters()]
        F.cross_entropy(network(torch.randn(5, 3, 16, 16)), torch.arange(5)).backward()
        optimizer.step()
        for old, new in zip(before, network.parameters(), strict=True):
            assert not torch.equal(old, new)
        instantiate(config.optimizer, _convert_="all")
        instantiate(config.mix)


def test_a_recipe_wants_imagenet_where_the_environment_has_it(monkeypatch):
    store_recipes()
    assert with_demo(["recipe=vit_b_24"], has_gpu=True) == ["recipe=vit_b_24", "demo=digits"]
    monkeypatch.setenv("IMAGENET_DIR", "/data/imagenet")
    words = with_demo(["recipe=vit_b_24"], has_gpu=True)
    assert words == ["recipe=vit_b_24"]
    config = compose(words)
    assert config.data._target_.endswith("ImageNet")
    assert config.data.root == "/data/imagenet"
    assert config.data.batch_size == 512


def test_data_given_or_picked_by_the_recipe_is_not_replaced_by_digits():
    store_recipes()
    for words in (
        ["recipe=vit_tiny_24"],
        ["recipe=vit_b_24", "data=synthetic"],
        ["recipe=vit_b_24", "data.root=/data"],
    ):
        assert with_demo(words, has_gpu=True) == words
    assert "demo=digits" in with_demo(["recipe=vit_b_24,deit_s_24"], has_gpu=False)
    assert "demo=digits" not in with_demo(["recipe=vit_b_24,vit_tiny_24"], has_gpu=False)


def test_keys_can_be_set_added_and_swept():
    store_recipes()
    check(["recipe=vit_tiny_24", "optimizer.lr=1e-4,1e-3", "+trainer.fast_dev_run=true"])
    check(["recipe=vit_tiny_24", "sparsity=ste24", "sparsity.weight.mvue=true"])
    check(["recipe=vit_tiny_24", "callbacks=ema", "callbacks.ema.decay=0.9", "~logger.wandb"])
