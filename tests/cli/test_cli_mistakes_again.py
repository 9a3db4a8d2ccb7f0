"""Mistakes that a second reader made: what is taken out, lists, and arguments that fit gives."""

import re

import pytest
from cli_helpers import call, fit

from sparsetrain.cli.check import check
from sparsetrain.cli.export import _options as export_options
from sparsetrain.cli.flags import split_flags
from sparsetrain.cli.overrides import check_single, with_quotes, with_recipe_file
from sparsetrain.lightning.data.transforms import Augment, train_transform
from sparsetrain.lightning.network import build_network

TINY = "recipe=vit_tiny_24"

WORDS = {
    "trainer.max_epochs=null": "trainer.max_epochs=null: the cosine schedule needs an end",
    "~mix": "~mix: a run reads mix, so it cannot be taken out; give it a value",
    "~seed": "~seed: a run reads seed, so it cannot be taken out",
    "~optimizer.lr": "~optimizer.lr: a run reads optimizer.lr, so it cannot be taken out",
    "~model.name": "~model.name: a run reads model.name, so it cannot be taken out",
    "optimizer.lr={a:1}": "optimizer.lr.a is no key of this config: did you mean optimizer.lr?",
    "optimizer.betas=(0.9,0.95)": "a list is written optimizer.betas=[0.9,0.95]",
    "sparsity=[weights24,act24]": "sparsity is one option, not a list: there are weights24",
    "+trainer.logger=true": "trainer.logger is given by `fit` itself: loggers are logger.NAME",
    "+trainer.callbacks=[]": "trainer.callbacks is given by `fit` itself: callbacks are",
    "+trainer.plugins=x": "trainer.plugins is given by `fit` itself",
    "+trainer.default_root_dir=x": "by `fit` itself: the folder of a run is hydra.run.dir",
    "+trainer.deterministic=maybe": "trainer.deterministic=maybe: give true, false, warn or null",
    "+model.options.pretrained=maybe": "model.options.pretrained=maybe: give true, false",
    "data.img_size=64": "data.img_size=64 and model.img_size=16: give model.img_size alone, which",
    "data.seed=abc": "data.seed=abc: give a whole number in [0, 4294967295]",
    "=3": "'=3' is not of the form key=value",
    "++=3": "'++=3' is not of the form key=value",
    "+trainer.sync_batchnorm=x": "trainer.sync_batchnorm=x: give true, false",
    "+trainer.inference_mode=x": "trainer.inference_mode=x: give true, false",
    "+trainer.benchmark=x": "trainer.benchmark=x: give true, false or null",
    "+trainer.max_time=2h": "trainer.max_time=2h: give days:hours:minutes:seconds",
    "+trainer.max_time=5": "trainer.max_time=5: give days:hours:minutes:seconds, as 00:12:00:00",
    "sparsity.weight._target_=sparsetrain.STE": "sparsity.weight.decay: sparsetrain.STE takes no "
    "decay; add ~sparsity.weight.decay to the command line",
    "+trainer.min_epochs=-2": "trainer.min_epochs=-2: give a whole number ≥ 0 or null",
}


@pytest.mark.parametrize(("word", "line"), WORDS.items(), ids=list(WORDS))
def test_a_word_is_answered_with_what_to_write(word, line):
    with pytest.raises(ValueError, match=re.escape(line)):
        check(with_quotes([TINY, word]))


@pytest.mark.parametrize(
    "words",
    [
        ["~logger.wandb"],
        ["~callbacks.last"],
        ["~sparsity.schedule"],
        ["trainer.max_epochs=null", "trainer.max_steps=5"],
        ["+trainer.deterministic=warn"],
        ["+trainer.max_time=00:12:00:00"],
        ["sparsity.weight._target_=sparsetrain.STE", "~sparsity.weight.decay"],
    ],
)
def test_what_a_run_can_do_without_is_taken_out(words):
    check([TINY, *words])


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("optimizer:\n  lr: 1e-3 per image", "optimizer.lr=1e-3 per image: give a number > 0"),
        ("trainer: fast", "recipe=cut: trainer=fast: it holds keys, as trainer.NAME"),
        ("trainer: null", "recipe=cut: trainer=null: it holds keys, as trainer.NAME"),
    ],
)
@pytest.mark.parametrize("word", ["demo=null", "trainer.max_epochs=1", None])
def test_a_value_of_a_recipe_that_is_cut_down_is_told(tmp_path, monkeypatch, content, line, word):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cut.yaml").write_text(f"defaults:\n  - override /model: vit_tiny\n{content}\n")
    ended = call("fit", "recipe=./cut.yaml", *([] if word is None else [word]))
    assert ended.complaint == line


def test_a_folder_or_a_file_without_its_ending_is_no_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lone").mkdir()
    (tmp_path / "lone" / "a.yaml").write_text("seed: 1\n")
    (tmp_path / "b.txt").write_text("seed: 1\n")
    for value, line in {
        "lone": "recipe='lone' is unknown: did you mean lone/a.yaml?",
        "lone/a": "recipe='lone/a' is unknown: did you mean lone/a.yaml?",
        "b.txt": "those of recipes end in .yaml; rename it to b.yaml",
    }.items():
        with pytest.raises(ValueError, match=re.escape(line)):
            check(with_quotes([f"recipe={value}"]))


def test_a_misspelt_key_of_a_recipe_that_exists_is_told():
    with pytest.raises(ValueError, match="write recipe=vit_tiny_24 instead of recipes=vit_tiny_24"):
        check(["recipes=vit_tiny_24"])


@pytest.mark.parametrize(
    ("option", "line"),
    [
        ({"act_layer": "foo"}, "'act_layer': 'foo'"),
        ({"norm_layer": "foo"}, "'norm_layer': 'foo'"),
        ({"patch_size": 0}, "'patch_size': 0"),
        ({"checkpoint_path": "no.safetensors"}, "checkpoint_path=no.safetensors: no such file"),
    ],
)
def test_an_option_that_timm_fails_on_is_named(option, line):
    small = {"patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 1}
    with pytest.raises(ValueError, match=re.escape(line)):
        build_network("vit_tiny_patch16_224", 16, 10, options={**small, **option})


def test_weights_that_cannot_be_fetched_are_told_with_what_to_give(monkeypatch):
    def without_network(*arguments, **options):
        raise FileNotFoundError("no address of huggingface.co\nand more")

    monkeypatch.setattr("timm.create_model", without_network)
    line = "pretrained=true: the weights of vit_tiny_patch16_224 cannot be fetched (no address"
    with pytest.raises(ValueError, match=re.escape(line)):
        build_network("vit_tiny_patch16_224", 224, 10, options={"pretrained": True})


def test_no_included_layer_is_told_apart_from_excluded_ones(tmp_path):
    line = fit(tmp_path, "sparsity.include=[]").complaint
    assert line.endswith("(none is in include and not in exclude)")


@pytest.mark.parametrize("policy", ["rnd-m9", "rand-x9"])
def test_a_policy_that_timm_does_not_know_is_named(policy):
    line = f"augment.auto_augment='{policy}' is no policy of timm"
    with pytest.raises(ValueError, match=line):
        train_transform(Augment(auto_augment=policy), 16, (0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("out=", "out= is empty: give a value or leave it out"),
        ("format=", "format= is empty: give a value or leave it out"),
        ("out=x.gguf", "out=x.gguf: .gguf says none of the formats of export: give a file that"),
    ],
)
def test_an_export_is_not_written_where_nobody_looks_for_it(word, line):
    with pytest.raises(ValueError, match=re.escape(line)):
        export_options(["checkpoint=x", word])


def test_a_logger_that_cannot_be_made_is_named(tmp_path):
    word = "+logger.mine._target_=pytorch_lightning.loggers.TensorBoardLogger"
    assert fit(tmp_path, word).complaint.startswith("logger.mine: TensorBoardLogger.__init__() mis")


def test_a_rank_that_is_no_number_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "x")
    line = "LOCAL_RANK=x in the environment: give a whole number, or unset it"
    assert fit(tmp_path).complaint == line


def test_several_options_of_a_group_are_no_list():
    with pytest.raises(ValueError, match=r"callbacks=ema,default has several .* choose one"):
        check_single(["callbacks=ema,default"], "a run for each is `fit -m …`")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--cfg", "recipe=vit_tiny_24"], "--cfg: give one of job, hydra, all"),
        (["--cfg", "jobs"], "--cfg jobs: give one of job, hydra, all"),
        (["--info=nope"], "--info nope: give one of all, config"),
    ],
)
def test_a_flag_of_hydra_with_a_value_that_it_has_not_is_named(words, line):
    with pytest.raises(ValueError, match=re.escape(line)):
        split_flags(words)
    assert split_flags(["-c", "job", "--info", "seed=1"]) == (["-c", "job", "--info"], ["seed=1"])


def test_a_run_folder_in_the_home_is_there_and_not_in_a_folder_named_by_a_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    for key in ("run_dir", "hydra.run.dir", "data.root", "checkpoint"):
        assert with_quotes([f"{key}=~/a b"]) == [f"{key}='/home/me/a b'"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("defaults: [mine]\nseed: 1\n", "defaults: 'mine' is this recipe itself; take it out"),
        ("defaults: [model: vit_b]\n", "defaults: model: write - override /model: vit_b"),
        ("defaults: [/model: vit_b]\n", "defaults: /model: write - override /model: vit_b"),
        ("defaults: [override model: vit_b]\n", "override model: write - override /model: vit_b"),
    ],
)
def test_what_a_recipe_file_builds_on_is_told_with_how_it_is_written(tmp_path, text, line):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match=re.escape(line)):
        check(with_recipe_file([f"recipe={tmp_path}/mine.yaml"]))
