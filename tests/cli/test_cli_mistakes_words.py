"""Words of other trainers, spaces, and files in the wrong place: one line says what to write."""

import re

import pytest
from cli_helpers import call, fit

from sparsetrain.cli.check import check
from sparsetrain.cli.load import load_trained
from sparsetrain.cli.validate import config_with
from sparsetrain.recipe import nearest

TINY = "recipe=vit_tiny_24"

KEYS = {
    "gpus=2": "write trainer.devices=2",
    "resume=a.ckpt": "write checkpoint=a.ckpt",
    "output_dir=x": "write hydra.run.dir=x",
    "data.path=/data/pets": "write data.root=/data/pets",
    "device=cuda": "write trainer.accelerator=cuda",
    "bf16=true": "write trainer.precision=bf16-mixed",
    "fp8=true": "write sparsity=fp8_24, or sparsity=fp8_all24",
    "pretrained=true": "write +model.options.pretrained=true",
    "model.options.pretrained=true": "write +model.options.pretrained=true",
    "model.options.checkpoint_path=a.safetensors": "write +model.options.checkpoint_path=a.safet",
    "density=0.5": "write sparsity=NAME: 2:4 is weights24",
    "wandb=false": "write logger=csv, which leaves W&B out",
    "logger.wandb.offline=yes": "WANDB_MODE=offline before the command",
    "wd=0.1": "write optimizer.weight_decay=0.1",
    "sparsity=2:4": "write sparsity=weights24",
    "sparsity=none": "write sparsity=dense",
    "sparsity=null": "write sparsity=dense",
    "logger=none": "write logger=csv",
    "data=/data/pets": "write data.root=/data/pets; data= names the kind",
    "=": "' = ' with spaces: write key=value, without spaces around the =",
}


@pytest.mark.parametrize(("word", "line"), KEYS.items(), ids=list(KEYS))
def test_a_word_of_another_trainer_is_answered_with_what_to_write_here(word, line):
    with pytest.raises(ValueError, match=re.escape(line)):
        check([TINY, word])


FLAGS = {
    "--resume": "write checkpoint=x",
    "--gpus": "write trainer.devices=x",
    "--output-dir": "write hydra.run.dir=x",
    "--config": "write recipe=x",
    "--no-wandb": "write logger=csv",
}


@pytest.mark.parametrize(("flag", "line"), FLAGS.items(), ids=list(FLAGS))
def test_a_flag_of_another_trainer_is_answered_with_what_to_write_here(flag, line):
    assert line in call("fit", TINY, f"{flag}=x").complaint


def test_a_name_in_capitals_is_near_its_own():
    assert nearest("VIT_TINY_24", ["vit_tiny_24", "cifar10_vit"]) == "did you mean vit_tiny_24?"


@pytest.mark.parametrize("verb", ["validate", "export", "prune"])
def test_an_empty_checkpoint_is_missing(verb):
    assert "checkpoint= is missing: give a file" in call(verb, "checkpoint=").complaint


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("train", "write python -m sparsetrain fit"),
        ("eval", "write python -m sparsetrain validate"),
        ("recipe=vit_tiny_24", "write python -m sparsetrain fit recipe=vit_tiny_24"),
    ],
)
def test_a_command_of_another_trainer_is_answered_with_ours(word, line):
    assert call(word).complaint.endswith(line)


def test_completion_of_another_shell_is_refused():
    assert call("complete", "zsh").complaint == "complete zsh: there is completion for bash alone"


def test_a_report_of_another_kind_of_file_is_refused(trained):
    assert call("report", str(trained.folder), "out=x.pdf").complaint.endswith(
        "is a page; give out=x.html"
    )


def test_validate_composes_another_recipe_without_what_the_run_changed_of_its_own(trained):
    path = str(trained.last)
    config = config_with(load_trained(path).config, path, ["recipe=vit_b_24"], ())
    assert config.model.options.depth == 2, "the checkpoint's"
    assert config.trainer.max_epochs == 300, "the other recipe's"


def test_several_machines_that_nothing_joins_are_refused(tmp_path):
    line = fit(tmp_path, "logger=csv", "trainer.num_nodes=2").complaint
    assert line.startswith("trainer.num_nodes=2: nothing says where the other machines are")


def test_a_model_that_takes_no_image_size_is_told_with_what_to_give(tmp_path):
    line = fit(tmp_path, "logger=csv", "model.name=resnet18").complaint
    assert line.endswith("give a ViT of timm, or options that its class takes")
