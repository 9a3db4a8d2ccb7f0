"""Mistakes of newcomers in what goes together: folders, flags, checkpoints, the trainer.

One line each, and nothing of before is lost. Nothing is trained here but the shared run.
"""

from pathlib import Path

import pytest
from cli_helpers import call, fit
from omegaconf import OmegaConf

from sparsetrain.cli.load import check_sparsity
from sparsetrain.lightning.data.files import other_kind
from sparsetrain.recipe import compose

TINY = ("fit", "recipe=vit_tiny_24")

WORDS = {
    "a flag for a key": (
        [*TINY, "--epochs=3"],
        "--epochs is no flag of fit: write trainer.max_epo",
    ),
    "a flag for lr": ([*TINY, "--lr", "1"], "--lr is no flag of fit: write optimizer.lr=…"),
    "a flag for the batch": ([*TINY, "--batch-size=8"], "write data.batch_size=8"),
    "a flag for the checkpoint": ([*TINY, "--checkpoint", "x"], "write checkpoint=…"),
    "a flag that is nothing": ([*TINY, "--wibble"], "values are given as key=value; there are"),
    "a sweep without -m": ([*TINY, "seed=1,2"], "seed=1,2 has several values: a run for each is"),
    "two recipes without -m": (["fit", "recipe=vit_tiny_24,vit_b_24"], "a run for each is `fit -m"),
    "a name with a comma": (
        [*TINY, "logger.wandb.name=mine, his"],
        "\"logger.wandb.name='mine, his'\"",
    ),
    "an empty run folder": ([*TINY, "hydra.run.dir="], "hydra.run.dir= is empty: give a folder"),
    "no run folder": ([*TINY, "hydra.run.dir=null"], "hydra.run.dir= is empty: give a folder"),
    "an empty sweep folder": ([*TINY, "hydra.sweep.dir="], "hydra.sweep.dir= is empty: give"),
    "no metrics.csv": ([*TINY, "logger.csv=null"], "logger.csv=null: the summary and report.html"),
    "metrics.csv taken out": ([*TINY, "~logger.csv"], "are drawn from metrics.csv; leave it in"),
    "an accelerator": (
        [*TINY, "trainer.accelerator=gpus"],
        "accelerator=gpus: give auto, cpu, gpu",
    ),
    "all devices": ([*TINY, "trainer.devices=all"], "trainer.devices=all: give auto, -1, or"),
    "a report of an empty word": (["report", "x", "out="], "out= is empty: give a file"),
    "a flag of report": (["report", "--open"], "--open is no flag of report"),
    "a project in an entity": (
        ["dashboard", "project=me/it"],
        "project=me/it is no name that W&B takes: write entity=… project=…",
    ),
    "a pickled export": (
        ["export", "checkpoint=x", "out=a.pt"],
        "out=a.pt: .pt is the ending of pickled files, which export does not write; give "
        "out=a.safetensors",
    ),
}


@pytest.mark.parametrize(("words", "line"), WORDS.values(), ids=list(WORDS))
def test_wrong_words_are_answered_with_what_to_write(words, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert line in call(*words).complaint
    assert not list(tmp_path.iterdir())


ARGUMENTS = {
    "no GPU": ("trainer.accelerator=gpu", "trainer.accelerator=gpu: PyTorch finds no GPU"),
    "a strategy": ("trainer.strategy=dpp", "trainer.strategy=dpp is unknown: did you mean ddp"),
    "an empty list": ("trainer.devices=[]", "trainer.devices=[]: `Trainer(devices=[])` value is"),
}


@pytest.mark.parametrize(("word", "line"), ARGUMENTS.values(), ids=list(ARGUMENTS))
def test_an_argument_that_lightning_refuses_is_named_with_its_key(word, line, tmp_path):
    assert line in fit(tmp_path, "logger=csv", word).complaint


def test_a_folder_for_a_checkpoint_is_told_with_the_files_in_it(trained, tmp_path):
    said = call("validate", f"checkpoint={trained.folder}").complaint
    assert said.startswith(f"checkpoint={trained.folder} is a folder: give one of ")
    assert said.endswith(str(trained.last))
    assert call("export", f"checkpoint={tmp_path}").complaint.endswith("it has no .ckpt file")


@pytest.mark.parametrize("word", ["sparsity=dense", "optimizer.lr=1", "data.num_classes=7"])
def test_a_word_that_validate_would_not_use_is_refused(trained, word):
    said = call("validate", f"checkpoint={trained.last}", word).complaint
    assert said.startswith(f"{word} changes nothing that validate does: ")


def test_validate_takes_one_value_of_a_key(trained):
    said = call("validate", f"checkpoint={trained.last}", "data.batch_size=8,16").complaint
    assert "data.batch_size=8,16 has several values: call validate for each" in said


def test_a_dense_checkpoint_of_a_sparse_run_and_the_reverse_are_refused():
    dense, sparse, mixed = (
        compose([recipe, "run_dir=x", "logger=csv"])
        for recipe in ("recipe=vit_b_dense", "recipe=vit_tiny_24", "recipe=vit_tiny_mixed")
    )
    saved = [{"sparsetrain_config": {"config": OmegaConf.to_container(c)}} for c in (dense, sparse)]
    check_sparsity(saved[0], dense, "a.ckpt")
    check_sparsity(saved[1], mixed, "a.ckpt")
    check_sparsity({}, sparse, "a.ckpt")
    with pytest.raises(ValueError, match=r"checkpoint=a.ckpt was trained dense, .* give sparsity="):
        check_sparsity(saved[0], sparse, "a.ckpt")
    with pytest.raises(ValueError, match=r"checkpoint=a.ckpt was trained sparse, and this run is"):
        check_sparsity(saved[1], dense, "a.ckpt")


def test_a_folder_for_a_report_is_told_with_a_file_in_it(trained, tmp_path):
    said = call("report", str(trained.folder), f"out={tmp_path}").complaint
    assert said == f"out={tmp_path} is a folder: give a file in it, as {tmp_path}/comparison.html"


def test_a_dashboard_is_not_written_over_a_file(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    assert call("dashboard", f"out={file}").complaint.startswith(f"out={file} is a file: give a fo")
    assert file.read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("train/cat/1.JPG", "imagenet"),
        ("a.tar", "imagenet"),
        ("x/train-0.parquet", "parquet"),
        ("state.json", "hf"),
        ("notes.txt", ""),
    ],
)
def test_a_data_set_of_another_kind_is_told_with_what_reads_it(tmp_path: Path, name, data):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
    assert other_kind(tmp_path) == (f"; data={data} reads what is there" if data else "")
