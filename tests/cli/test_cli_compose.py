"""Every recipe with every sparsity: composed, built small, and run forward and backward."""

import re
from fnmatch import fnmatch

import pytest
import torch
import torch.nn.functional as F
from cli_helpers import ROOT
from hydra.utils import instantiate
from torch import nn

from sparsetrain.cli.check import check
from sparsetrain.cli.overrides import with_demo, with_recipe_file
from sparsetrain.methods import STEP
from sparsetrain.nn import attach, sparsify
from sparsetrain.recipe import compose, instantiate_sparsity, recipe_names

SPARSITIES = sorted(path.stem for path in (ROOT / "configs" / "sparsity").glob("*.yaml"))
PICKED = re.findall(
    r"override /sparsity: (\w+)", "".join(f.read_text() for f in (ROOT / "recipes").glob("*.yaml"))
)
SMALL = [f"++model.options.{o}" for o in ("depth=1", "embed_dim=64", "num_heads=2", "patch_size=4")]


def assert_trains(*words: str) -> None:
    """What the words compose, built small, is as sparse as it says and every parameter moves."""
    config = compose([*words, *SMALL, "model.img_size=16", "model.num_classes=5"])
    for part in (config.sparsity, *config.sparsity.get("parts", {}).values()):
        pattern = part.get("pattern")
        block = None if pattern is None else pattern.get("block", pattern)
        if block is not None and "rows" in block:
            block.rows = block.columns = 8  # of layers as small as these
    network = instantiate(config.model, _convert_="all")
    spec = instantiate_sparsity(config)
    report = sparsify(network, spec, on_cpu=True)
    # An MLP with sparse activations is a row beside its own.
    named = [n for n, m in network.named_modules() if isinstance(m, nn.Linear)]
    globs = [glob for part in spec.rules if part.weight is not None for glob in part.include]
    bounded = [name for name in named if any(fnmatch(name, glob) for glob in spec.include)]
    sparse = [name for name in bounded if any(fnmatch(name, glob) for glob in globs)]
    assert len(report.converted) == len(sparse) + (spec.activation is not None)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, weight_decay=0)
    if report.converted:
        # STEP has to have a dense step behind it.
        attach(network, optimizer, total_steps=20 if isinstance(spec.weight, STEP) else 1)
    before = [p.detach().clone() for p in network.parameters()]
    F.cross_entropy(network(torch.randn(5, 3, 16, 16)), torch.arange(5)).backward()
    optimizer.step()
    for old, new in zip(before, network.parameters(), strict=True):
        assert not torch.equal(old, new)
    instantiate(config.optimizer, _convert_="all")
    instantiate(config.mix)


@pytest.mark.parametrize("recipe", recipe_names())
def test_a_recipe_trains_as_it_stands(recipe):
    assert_trains(f"recipe={recipe}")


@pytest.mark.parametrize("sparsity", sorted({*SPARSITIES} - {*PICKED}))
def test_a_recipe_trains_with_every_sparsity_that_none_picks(sparsity):
    assert_trains("recipe=vit_b_24", f"sparsity={sparsity}")


@pytest.mark.parametrize("sparsity", ["dense", "block80_16"])
def test_a_recipe_in_fp8_trains_with_another_sparsity(sparsity):
    assert_trains("recipe=vit_b_fp8_24", f"sparsity={sparsity}")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", recipe_names())
@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_every_recipe_trains_with_every_sparsity(sparsity, recipe):
    assert_trains(f"recipe={recipe}", f"sparsity={sparsity}")


def test_a_recipe_wants_imagenet_where_the_environment_has_it(monkeypatch):
    assert with_demo(["recipe=vit_b_24"], has_gpu=True) == ["recipe=vit_b_24", "demo=digits"]
    monkeypatch.setenv("IMAGENET_DIR", "/data/imagenet")
    words = with_demo(["recipe=vit_b_24"], has_gpu=True)
    assert words == ["recipe=vit_b_24"]
    config = compose(words)
    assert config.data._target_.endswith("ImageNet")
    assert config.data.root == "/data/imagenet"
    assert config.data.batch_size == 512


def test_data_given_or_picked_by_the_recipe_is_not_replaced_by_digits():
    for words in (
        ["recipe=vit_tiny_24"],
        ["recipe=vit_b_24", "data=synthetic"],
        ["recipe=vit_b_24", "data.root=/data"],
    ):
        assert with_demo(words, has_gpu=True) == words
    assert "demo=digits" in with_demo(["recipe=vit_b_24,deit_s_24"], has_gpu=False)
    assert "demo=digits" not in with_demo(["recipe=vit_b_24,vit_tiny_24"], has_gpu=False)


def test_keys_can_be_set_added_and_swept():
    check(["recipe=vit_tiny_24", "optimizer.lr=1e-4,1e-3", "+trainer.fast_dev_run=true"])
    check(["recipe=vit_tiny_24", "sparsity=ste24", "sparsity.weight.mvue=true"])
    check(["recipe=vit_tiny_24", "callbacks=ema", "callbacks.ema.decay=0.9", "~logger.wandb"])
    check(["recipe=vit_tiny_24", "callbacks.masks=null", "logger.wandb=null", "run_dir=/x"])
    check(["recipe=vit_tiny_24", "optimizer.warmup_lr=${optimizer.min_lr}", "seed=range(3)"])
    check(["recipe=vit_tiny_24", "optimizer.lr_batch=null", "optimizer.layer_decay=null"])
    check(["recipe=vit_tiny_mixed", "sparsity.parts.mlp.weight=null", "~sparsity.parts.head"])


@pytest.mark.parametrize(
    ("word", "complaint"),
    [
        ("sparsity.parts.head.pattern.density=2", "density=2: give a number in (0, 1]"),
        ("sparsity.parts.mlp.weight.decay=x", "sparsity.parts.mlp.weight.decay=x: give a number"),
        ("+sparsity.parts.mlp.wieght=null", "sparsity.parts.mlp.wieght is no key of this config"),
        (
            "+sparsity.parts.mine.include=[x]",
            "sparsity.parts.mine has no _target_: give sparsetrain",
        ),
        ("sparsity.parts.head=null", "leave the part out by ~sparsity.parts.head"),
    ],
)
def test_a_mistake_in_a_part_names_its_key(word, complaint):
    with pytest.raises(ValueError, match=re.escape(complaint)):
        check(["recipe=vit_tiny_mixed", word])


def test_a_part_may_be_added_and_its_keys_are_known():
    mine = "+sparsity.parts.mine={_target_:sparsetrain.Part,include:[x],weight:null}"
    check(["recipe=vit_tiny_mixed", mine])


@pytest.mark.parametrize(
    ("word", "complaint"),
    [
        ("optimizer.lr=1e-3,abc", "optimizer.lr=abc: give a number"),
        ("++trainer.max_epochs=abc", "trainer.max_epochs=abc: give a whole number"),
    ],
)
def test_text_for_a_number_is_refused_before_anything_runs(word, complaint):
    with pytest.raises(ValueError, match=re.escape(complaint)):
        check(["recipe=vit_tiny_24", word])


def test_text_for_a_number_in_a_recipe_file_is_refused(tmp_path):
    (tmp_path / "of_text.yaml").write_text("optimizer:\n  lr: abc\n")
    words = with_recipe_file([f"recipe={tmp_path}/of_text.yaml"])
    with pytest.raises(ValueError, match=r"optimizer\.lr=abc: give a number"):
        check(words)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["callbacks.ema.decay=0.9"], "it comes with callbacks=ema"),
        (["logger=csv", "logger.wandb.project=x"], "it comes with logger=wandb"),
        (["+callbacks.ema.decay=0.9"], "callbacks.ema has no _target_.*choose callbacks=ema"),
        (["callbacks.ema=true"], "callbacks.ema has no _target_.*choose callbacks=ema"),
        (["+callbacks.mine.x=1"], "callbacks.mine has no _target_.*give its class"),
    ],
    ids=str,
)
def test_a_key_of_an_option_that_was_not_chosen_names_the_option(words, complaint):
    with pytest.raises(ValueError, match=complaint):
        check(["recipe=vit_tiny_24", *words])


def test_adding_is_offered_where_something_reads_what_is_added():
    with pytest.raises(ValueError, match=r"\(or \+trainer\.fast_dev_run=true\)"):
        check(["recipe=vit_tiny_24", "trainer.fast_dev_run=true"])
    with pytest.raises(ValueError, match=r"^sede= (?!.*or \+)"):
        check(["recipe=vit_tiny_24", "sede=1"])
