"""What `fit` says where a recipe asks for more than the machine has."""

import pytest
import pytorch_lightning as pl
from cli_helpers import fit

from sparsetrain.cli.fit import on_a_cpu
from sparsetrain.cli.workers import limit_workers
from sparsetrain.recipe import compose

IMAGENET = ["recipe=vit_b_24", "data=imagenet", "data.root=/data"]


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr("sparsetrain.cli.workers.cores", lambda: 2)


def test_loading_processes_are_as_many_as_cores_and_a_line_says_so(two_cores):
    config = compose(IMAGENET)
    (line,) = limit_workers(config, IMAGENET)
    assert config.data.num_workers == 2
    assert line == "data.num_workers=2, as many as this machine has cores (the config's: 8)"


def test_loading_processes_that_were_asked_for_are_left_alone(two_cores):
    words = [*IMAGENET, "data.num_workers=5"]
    config = compose(words)
    assert limit_workers(config, words) == ()
    assert config.data.num_workers == 5


def test_a_batch_for_gpus_is_answered_on_a_cpu_with_what_to_change():
    trainer = pl.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    config = compose(IMAGENET)
    (note,) = on_a_cpu(config, trainer)
    assert "512 images of 224 pixels" in note
    small = compose([*IMAGENET, "model.img_size=64", "data.batch_size=16"])
    assert on_a_cpu(small, trainer) == ()


def test_a_small_run_gets_no_advice(tmp_path):
    out = fit(tmp_path, "trainer.max_epochs=1", "+trainer.limit_val_batches=1").out
    assert "No GPU" not in out
    assert "num_workers" not in out
