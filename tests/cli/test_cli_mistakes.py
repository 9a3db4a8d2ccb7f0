"""Mistakes in words, values and recipe files: one line that names the key, the value and the fix.

Nothing is trained here: what is wrong is told before Lightning is imported.
"""

import copy
import re
from typing import Any

import pytest
import torch
from cli_helpers import fit
from hydra.core.override_parser.types import QuotedString
from omegaconf import OmegaConf

from sparsetrain.cli.check import check, check_ranges
from sparsetrain.cli.export import _options as export_options
from sparsetrain.cli.known import keys_of
from sparsetrain.cli.load import changes_since, check_weights
from sparsetrain.cli.overrides import parsed, with_quotes, with_recipe_file
from sparsetrain.cli.ranges import CHECKS
from sparsetrain.cli.validate import check_classes
from sparsetrain.lightning.network import build_network
from sparsetrain.recipe import compose
from sparsetrain.targets import check_size

TINY = "recipe=vit_tiny_24"

VALUES = {
    "seed=-1": "seed=-1: give a whole number in [0, 4294967295]",
    "seed=1.5": "seed=1.5: give a whole number",
    "seed=abc": "seed=abc: give a whole number",
    "seed=true": "seed=true: give a whole number",
    "checkpoint=": "checkpoint= is empty: give a file",
    "engine=fast": "engine=fast: give auto, masked, native, aten",
    "matmul_precision=low": "matmul_precision=low: give highest, high, medium",
    "cpu_threads=0": "cpu_threads=0: give a whole number ≥ 1 or null",
    "compile=max": "compile=max: give auto, true, false",
    "mix.prob=7": "mix.prob=7: give a number in [0, 1]",
    "mix.label_smoothing=2": "mix.label_smoothing=2: give a number in [0, 1)",
    "mix.mixup=-0.1": "mix.mixup=-0.1: give a number ≥ 0",
    "model.drop_path=2": "model.drop_path=2: give a number in [0, 1)",
    "model.img_size=0": "model.img_size=0: give a whole number ≥ 1",
    "model.img_size=16.5": "model.img_size=16.5: give a whole number ≥ 1",
    "model.attention=flash": "model.attention=flash: give sdpa, xformers",
    "model.name=": "model.name= is empty: give the name of a timm model",
    "model.num_classes=0": "model.num_classes=0: give a whole number ≥ 1 or null",
    "data.batch_size=0": "data.batch_size=0: give a whole number ≥ 1",
    "data.num_workers=-1": "data.num_workers=-1: give a whole number ≥ 0",
    "data.cache=cpu": "data.cache=cpu: give gpu or null",
    "data.std=[0,1,1]": "data.std=[0, 1, 1]: give 3 in a list, each a number > 0",
    "data.mean=[0.5]": "data.mean=[0.5]: give 3 in a list, each a number",
    "optimizer.lr=-1": "optimizer.lr=-1: give a number > 0",
    "optimizer.lr=nan": "optimizer.lr=nan: give a number > 0",
    "optimizer.lr=inf": "optimizer.lr=inf: give a number > 0",
    "optimizer.betas=[0.9,1.0]": "optimizer.betas=[0.9, 1.0]: give 2 in a list",
    "optimizer.betas=[0.9]": "optimizer.betas=[0.9]: give 2 in a list",
    "optimizer.weight_decay=-0.1": "optimizer.weight_decay=-0.1: give a number ≥ 0",
    "optimizer.layer_decay=0": "optimizer.layer_decay=0: give a number in (0, 1] or null",
    "optimizer.warmup_epochs=31": "warmup_epochs=31 and trainer.max_epochs=30: the run ends in its",
    "optimizer.min_lr=1": "optimizer.min_lr=1 and optimizer.lr=0.003: lr is the peak; lower",
    "sparsity.weight.decay=-1": "sparsity.weight.decay=-1: give a number ≥ 0",
    "sparsity.weight.mvue=1": "sparsity.weight.mvue=1: give true, false",
    "sparsity.include=mlp": "sparsity.include=mlp is no list: write sparsity.include=[mlp]",
    "sparsity.selection.solver=best": "sparsity.selection.solver=best: give exact, row, greedy",
    "sparsity.schedule.mask_every=0": "mask_every=0: give a whole number ≥ 1",
    "sparsity.schedule.dense_tail=1.5": "dense_tail=1.5: give a number in [0, 1]",
    "sparsity.schedule.freeze_at=2": "freeze_at=2: give a number in [0, 1] or null",
    "trainer.max_epochs=-1": "trainer.max_epochs=-1: the cosine schedule needs an end",
    "trainer.max_epochs=2.5": "trainer.max_epochs=2.5: give a whole number",
    "trainer.precision=bf17": "trainer.precision=bf17: give bf16-mixed,",
    "trainer.accumulate_grad_batches=0": "accumulate_grad_batches=0: give a whole number ≥ 1",
    "trainer.limit_train_batches=1.5": "limit_train_batches=1.5: give a whole number ≥ 1, or",
    "trainer.gradient_clip_val=-1": "gradient_clip_val=-1: give a number ≥ 0 or null",
    "callbacks.last.every_n_epochs=0": "last.every_n_epochs=0: give a whole number",
    "callbacks.checkpoint.mode=up": "callbacks.checkpoint.mode=up: give min, max",
    "optimizer.lr=abc": "optimizer.lr=abc: give a number > 0",
    "optimizer.lr='1e-3'": "optimizer.lr=1e-3: give a number",
    "optimizer.betas=[0.9,x]": "optimizer.betas=[0.9, 'x']: give 2 in a list, each a number",
    "optimizer.layer_decay=abc": "optimizer.layer_decay=abc: give a number",
    "trainer.max_epochs=abc": "trainer.max_epochs=abc: give a whole number",
    "data.batch_size=null": "data.batch_size=null: give a whole number ≥ 1",
    "sparsity.weight.decay=null": "sparsity.weight.decay=null: give a number ≥ 0",
    "optimizer.lr=null": "optimizer.lr=null: give a number > 0",
    "optimizer.betas=null": "optimizer.betas=null: give 2 in a list, each a number in [0, 1)",
}
"""Words that change one value of a composed config."""


@pytest.fixture(scope="module")
def composed() -> Any:
    return compose([TINY, "run_dir=x"])


@pytest.mark.parametrize(("word", "line"), VALUES.items(), ids=list(VALUES))
def test_a_value_that_cannot_be_is_named_with_what_can(composed, word, line):
    config = copy.deepcopy(composed)
    [override] = parsed(with_quotes([word]))
    value = override.value()
    value = value.text if isinstance(value, QuotedString) else value
    OmegaConf.update(config, override.get_key_element(), value)
    with pytest.raises(ValueError, match=re.escape(line)):
        check_ranges(config)


WORDS = {
    "seed=0,-1": "seed=-1: give a whole number",
    "+mix.switch_prob=2": "mix.switch_prob=2: give a number in [0, 1]",
    "sparsity.schedule=null": "sparsity.schedule=null: it holds keys, as sparsity.schedule.NAME",
    "optimizer=null": "optimizer=null: the group cannot be left out",
    "data.augment=3": "data.augment=3: it holds keys, as data.augment.NAME",
    "+trainer.fast_dev_rum=1": "is no key of this config: did you mean trainer.fast_dev_run",
    "+sede=1": "sede is no key of this config: did you mean seed?",
    "+optimizer.momentum=0.9": "optimizer.momentum is no key of this config",
    "callbacks.ema=true": "callbacks.ema has no _target_",
    "sparsity.include=[[mlp": "cannot be read: text with brackets, commas or quotes is given in",
    "seed": "'seed' is not of the form key=value",
}
"""Words that Hydra has to compose, or refuses."""


@pytest.mark.parametrize(("word", "line"), WORDS.items(), ids=list(WORDS))
def test_a_word_that_cannot_be_is_named_with_what_can(word, line):
    with pytest.raises(ValueError, match=re.escape(line)):
        check(with_quotes([TINY, word]))


PAIRS = {
    "mixup of an odd batch": (["mix.mixup=0.8", "data.batch_size=7"], "make it even, or set"),
    "phases beyond the run": (
        ["sparsity.schedule.dense_warmup=0.6", "sparsity.schedule.dense_tail=0.6"],
        "add up to more than the whole run: lower one",
    ),
    "a score that the solver has not": (
        ["sparsity.selection.solver=row", "sparsity.selection.score=squared"],
        "sparsity.selection.score=squared goes with solver=exact, not row",
    ),
    "no data root": (["data=parquet", "data.root="], "data.root= is empty: give a folder or null"),
    "a year for a data root": (["data=parquet", "data.root=0x"], None),
    "a crop beyond the image": (["data=parquet", "data.crop_pct=2"], "data.crop_pct=2: give a"),
    "a crop of falling sizes": (
        ["data=parquet", "data.augment.scale=[1.0,0.1]"],
        "data.augment.scale=[1.0, 0.1]: the smaller comes first",
    ),
    "an unknown filter": (
        ["data=parquet", "data.augment.interpolation=cubic"],
        "interpolation=cubic: give bilinear, bicubic",
    ),
    "all to validate": (["data=parquet", "data.val_fraction=1"], "data.val_fraction=1: give a"),
    "no images": (["data=synthetic", "data.length=0"], "data.length=0: give a whole number ≥ 1"),
    "another data set's key": (["data.val_fraction=0.1"], "it comes with data=hf or data="),
}


@pytest.mark.parametrize(("words", "line"), PAIRS.values(), ids=list(PAIRS))
def test_values_that_do_not_go_together_are_named(words, line):
    if line is None:
        check(with_quotes([TINY, *words]))
        return
    with pytest.raises(ValueError, match=re.escape(line)):
        check(with_quotes([TINY, *words]))


RECIPES = {
    "": "is empty: a recipe sets keys",
    "# nothing\n": "is empty: a recipe sets keys",
    "format: 1\n": "is empty: a recipe sets keys",
    "hello\n": "holds text; a recipe sets keys",
    "3\n": "holds 3; a recipe sets keys",
    "optimzer: {lr: 1}": "recipe=mine: optimzer is no key of this config: did you mean optimizer",
    "optimizer: {learning_rate: 1}": "optimizer.learning_rate is no key of this config",
    "sparsity: {schedule: {mask_evry: 2}}": "did you mean sparsity.schedule.mask_every",
    "model: {drop_pth: 0.1}": "is no key of this config: did you mean model.drop_path",
    "data: {augment: {hflp: 1}}": "data.augment.hflp is no key of this config: did you mean",
    "callbacks: {last: {every: 2}}": "callbacks.last.every is no key of this config: did you mean",
    "trainer: {max_epoch: 2}": "trainer.max_epoch is no key of this config: did you mean",
    "optimizer: 3": "optimizer=3: it holds keys, as optimizer.NAME",
    "optimizer: {lr: -1}": "optimizer.lr=-1: give a number > 0",
    "mix: {prob: 7}": "mix.prob=7: give a number in [0, 1]",
    "mine: 1": "recipe=mine: mine is no key of this config",
    "defaults: [override /model: vit_x]": "override /model: 'vit_x' is unknown: did you mean vit_l",
    "defaults: [override /modle: vit_b]": "'override /modle' is no group: did you mean model",
    "defaults: [vit_b_42]": "defaults: 'vit_b_42' is no recipe: did you mean vit_b_24",
    "defaults: {override /model: vit_b}": "defaults: give a list, as - override /model: vit_b",
    "seed: ${nowhere}": "nowhere",
    "seed: ${": "recipe=",
    "seed: [1": "is no YAML",
    "model: " + "[" * 500: "is nested too deep",
    "a: &a {x: 1}\n" + "".join(f"b{i}: &b{i} [{', '.join(['*b' + str(i - 1)] * 9)}]\n" for i in range(1, 9)).replace("*b0", "*a"): "holds more than 100,000 values",  # noqa: E501
}  # fmt: skip


@pytest.mark.parametrize(("text", "line"), RECIPES.items(), ids=[text[:30] for text in RECIPES])
def test_a_recipe_file_with_a_mistake_is_answered_like_the_command_line(tmp_path, text, line):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(Exception, match=re.escape(line)) as error:
        check(with_recipe_file([f"recipe={path}"]))
    assert type(error.value).__module__.split(".")[0] in ("builtins", "hydra", "omegaconf")
    assert not isinstance(error.value, (AttributeError, TypeError, KeyError))


def test_a_recipe_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"mine.yaml is no text in UTF-8"):
        with_recipe_file([f"recipe={tmp_path}/mine.yaml"])


def test_lists_that_hold_each_other_many_times_end():
    lists: list[object] = [1]
    for _ in range(20):
        lists = [lists] * 9
    with pytest.raises(ValueError, match="checkpoint holds more than"):
        check_size({"a": lists}, "checkpoint")


@pytest.mark.parametrize("name", ["a b", "it's", 'say "so"', "a=b", "größe", "a,b", "x[1]{y}(z)#~"])
def test_paths_hold_any_character_unquoted(tmp_path, name):
    (tmp_path / name).mkdir()
    words = with_quotes([TINY, "data=parquet", f"data.root={tmp_path / name}"])
    assert parsed(words[2:])[0].value() == str(tmp_path / name)
    assert with_quotes(words) == words, "what is quoted stays as it is"


def test_a_folder_and_a_recipe_file_of_any_name_are_composed(tmp_path):
    name = 'a b, it\'s "größe"=x[1]{y}(z)#~'
    recipe = tmp_path / name / f"{name}.yaml"
    recipe.parent.mkdir()
    recipe.write_text("seed: 5\ndefaults: [override /data: parquet]\n")
    words = with_quotes([f"data.root={tmp_path / name}"])
    config = check([*with_recipe_file([f"recipe={recipe}"]), *words])
    assert (config.seed, config.data.root) == (5, str(tmp_path / name))


def test_text_that_hydra_does_not_take_is_quoted_and_sweeps_are_left_alone():
    words = ["logger.wandb.name=größe", "data.root=/a,/b", "seed=1,2", "hydra.run.dir=/new/it's"]
    quoted = with_quotes(words)
    assert [override.value() for override in parsed(quoted[:1])] == ["größe"]
    assert quoted[1:3] == words[1:3]
    assert parsed(quoted[3:])[0].value() == "/new/it's"
    assert with_quotes(["checkpoint=null", "data.root='/a b'"]) == [
        "checkpoint=null",
        "data.root='/a b'",
    ]


@pytest.mark.parametrize(("size", "near"), [(15, "12 or 16"), (3, "4")])
def test_images_that_do_not_divide_into_patches_are_refused(size, near):
    small = {"patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 1}
    with pytest.raises(ValueError, match=f"model.img_size={size} is not a multiple .* give {near}"):
        build_network("vit_tiny_patch16_224", size, 10, options=small)


def test_out_says_the_format_unless_format_says_another():
    assert export_options(["checkpoint=x", "out=x.onnx"])["format"] == "onnx"
    assert export_options(["checkpoint=x", "out=x.safetensors"])["format"] == "safetensors"
    assert export_options(["checkpoint=x", "out=x.bin", "format=onnx"])["format"] == "onnx"
    with pytest.raises(ValueError, match=r"format=safetensors and out=x.onnx: .* leave one"):
        export_options(["checkpoint=x", "out=x.onnx", "format=safetensors"])


def test_weights_of_another_model_and_weights_that_are_not_finite_are_refused():
    layer = torch.nn.Linear(2, 2)
    weights = layer.state_dict()
    check_weights(layer, weights, "a.ckpt")
    with pytest.raises(ValueError, match=r"a.ckpt is of another model: weight is \(3, 2\) there"):
        check_weights(layer, torch.nn.Linear(2, 3).state_dict(), "a.ckpt")
    five = torch.nn.Sequential(layer, layer, torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    line = (
        r"another model: weight is absent there and \(2, 2\) here, bias is absent there and \(2,\) "
        r"here, 0.weight is \(2, 2\) there and absent here and 7 more; give the model\.\*"
    )
    with pytest.raises(ValueError, match=line):
        check_weights(layer, five.state_dict(), "a.ckpt")
    with pytest.raises(ValueError, match=r"a.ckpt: bias is not finite \(1 of 2 tensors\)"):
        check_weights(layer, {**weights, "bias": torch.tensor([0.0, torch.nan])}, "a.ckpt")


def test_data_with_other_classes_is_not_validated():
    check_classes(["cat", "dog"], ["cat", "dog"], "a.ckpt")
    check_classes(None, ["cat"], "a.ckpt")
    check_classes(["cat"], None, "a.ckpt")
    with pytest.raises(ValueError, match="1 is 'dog' there and 'eel' in this data"):
        check_classes(["cat", "eel"], ["cat", "dog"], "a.ckpt")
    with pytest.raises(ValueError, match="1 is 'dog' there and no class in this data"):
        check_classes(["cat"], ["cat", "dog"], "a.ckpt")


def test_a_resume_with_other_values_says_which():
    before, now = (compose([TINY, "run_dir=x", "logger=csv", *words]) for words in ([], ["seed=3"]))
    now.data.batch_size = 32
    saved = {"sparsetrain_config": {"config": _resolved(before)}}
    assert changes_since(saved, before, "a.ckpt") == ()
    assert changes_since(saved, now, "a.ckpt") == (
        "goes on from a.ckpt with other values: seed=3 (was 0), data.batch_size=32 (was 64), "
        "data.seed=3 (was 0)",
    )


def _resolved(config):
    from omegaconf import OmegaConf

    return OmegaConf.to_container(config, resolve=True)


def test_every_number_of_the_config_has_a_check():
    lists = ("data=parquet", "data=imagenet", "data=hf", "data=digits", "data=synthetic")
    for words in (*([data] for data in lists), ["callbacks=ema"], ["sparsity=all24"]):
        config = compose([TINY, *words, "run_dir=x"])
        for key in keys_of(_written(config)):
            value = _at(config, key)
            if isinstance(value, int | float) and key.partition(".")[0] != "logger":
                assert key in CHECKS or key in _TEXT_OF_OTHERS, f"{key}: add it to cli/ranges.py"


_TEXT_OF_OTHERS = (
    "callbacks.checkpoint.auto_insert_metric_name",
    "callbacks.checkpoint.enable_version_counter",
    "model.options.patch_size",
    "model.options.embed_dim",
    "model.options.depth",
    "model.options.num_heads",
)


def _written(config: Any) -> Any:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(config)


def _at(config, key):
    node = _written(config)
    for part in key.split("."):
        node = node[part]
    return node


def test_a_wrong_value_ends_the_command_in_one_line(tmp_path):
    line = fit(tmp_path, "optimizer.lr=-1").complaint
    assert line == "optimizer.lr=-1: give a number > 0"
    assert not list(tmp_path.iterdir())


def test_a_recipe_of_the_package_is_checked_before_hydra_was_given_it(monkeypatch):
    monkeypatch.setattr("sparsetrain.cli.words.stored_recipes", dict)
    assert check([TINY]).model.name == "vit_tiny_patch16_224"
