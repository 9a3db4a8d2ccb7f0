"""What `fit` says where a recipe asks for more than the machine has."""

import pytest
from cli_helpers import fit

from sparsetrain.cli.check import check
from sparsetrain.cli.overrides import with_demo
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
    assert line == "data.num_workers=2, of 2 cores (the config's: 16)"


@pytest.mark.parametrize(
    ("devices", "workers"), [("2", 1), ("[0,3]", 1), ("1", 2), ("-1", 2), ("8", 1)]
)
def test_training_processes_share_the_cores(two_cores, devices, workers):
    words = [*IMAGENET, f"trainer.devices={devices}", "trainer.accelerator=cpu"]
    config = compose(words)
    (line,) = limit_workers(config, words)
    assert config.data.num_workers == workers
    assert ("for each of" in line) == (workers == 1)


def test_loading_processes_that_were_asked_for_are_left_alone(two_cores):
    words = [*IMAGENET, "data.num_workers=5"]
    config = compose(words)
    assert limit_workers(config, words) == ()
    assert config.data.num_workers == 5


def test_a_recipe_for_gpus_is_cut_to_a_cpu_unless_sizes_are_given():
    cut = with_demo(IMAGENET, has_gpu=False)
    assert cut == [*IMAGENET, "demo=cpu"]
    config = compose(cut)
    assert (config.model.img_size, config.data.batch_size) == (32, 32)
    assert config.data._target_.endswith("ImageNet")
    assert with_demo(IMAGENET, has_gpu=True) == IMAGENET
    for word in ("model.img_size=64", "data.batch_size=16"):
        assert with_demo([*IMAGENET, word], has_gpu=False) == [*IMAGENET, word]


def test_demo_null_leaves_the_recipe_as_it_is():
    words = with_demo([*IMAGENET, "demo=null"], has_gpu=False)
    check(words)
    config = compose(words)
    assert (config.model.img_size, config.data.batch_size) == (224, 512)
    assert with_demo(words, has_gpu=False) == words


@pytest.mark.slow
def test_a_small_run_gets_no_advice(tmp_path):
    out = fit(tmp_path, "trainer.max_epochs=1", "trainer.limit_val_batches=1").out
    assert "No GPU" not in out
    assert "num_workers" not in out
