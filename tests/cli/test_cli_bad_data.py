"""Bad data and bad numbers through the command line: one line each."""

import warnings

import numpy as np
import pytest
from cli_helpers import call, fit
from PIL import Image

FOLDERS = ("data=imagenet", "data.batch_size=4", "data.num_workers=0", "trainer.max_epochs=1")


@pytest.fixture
def folders(tmp_path):
    """Two classes of eight images in train/, of two in val/."""
    random = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 2)):
        for name in ("cat", "dog"):
            folder = tmp_path / "set" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (20, 20, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "set"


def fit_folders(folders, *words):
    return fit(folders.parent / "run", *FOLDERS, f"data.root={folders}", *words)


@pytest.mark.slow
def test_whole_folders_train_with_two_classes(folders):
    ended = fit_folders(folders)
    assert ended.status == 0, ended.err
    assert "2×96" in ended.out


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_truncated_image_is_named(folders, workers):
    image = folders / "train" / "dog" / "3.png"
    image.write_bytes(image.read_bytes()[:100])
    with warnings.catch_warnings():
        # Python 3.12 on forking a worker from a process with threads, as wandb starts.
        warnings.simplefilter("ignore", DeprecationWarning)
        complaint = fit_folders(folders, f"data.num_workers={workers}").complaint
    assert f"cannot decode the image {image}" in complaint
    assert "replace or remove it" in complaint


def test_an_empty_class_folder_is_named(folders):
    for image in (folders / "train" / "cat").iterdir():
        image.unlink()
    assert f"{folders}/train/cat has no images" in fit_folders(folders).complaint


def test_an_empty_data_root_says_what_is_wanted(folders):
    root = folders.parent / "empty"
    root.mkdir()
    assert f"data.root={root} has no train split" in fit_folders(root).complaint


def test_a_class_count_that_is_not_the_data_sets_says_what_to_set(folders):
    assert "set model.num_classes=2" in fit_folders(folders, "model.num_classes=5").complaint


@pytest.mark.slow
def test_a_label_beyond_the_classes_is_named(tmp_path):
    complaint = fit(tmp_path, "model.num_classes=7").complaint
    assert "label 7 of sample" in complaint
    assert "model.num_classes=7" in complaint


def test_a_missing_root_says_which_key_to_set(tmp_path):
    assert "data.root is not set" in fit(tmp_path, "data=parquet").complaint


def test_a_pattern_that_matches_nothing_is_named_with_the_layers_there_are(tmp_path):
    complaint = fit(tmp_path, "sparsity.include=[mpl]").complaint
    assert "include: 'mpl' matches no linear layer" in complaint
    assert "blocks.0.mlp.fc1" in complaint


@pytest.mark.slow
def test_a_weight_that_becomes_nan_is_named_with_its_step(tmp_path):
    probe = ("+callbacks.probe._target_=probe.PlantNaN", "+callbacks.probe.step=5")
    complaint = fit(tmp_path, *probe).complaint
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert complaint.startswith("step 5: loss is nan; the weights network.")
    assert complaint.endswith(f"; the newest checkpoint is {last}, of step 4")
    assert last.is_file()


def test_a_learning_rate_that_blows_up_stops_the_run_in_one_line(tmp_path):
    complaint = fit(
        tmp_path, "logger=csv", "optimizer.lr=1e30", "optimizer.warmup_epochs=0"
    ).complaint
    assert complaint.startswith("step 1: loss is nan; ")
    assert complaint.endswith("; no checkpoint was written")


def test_recipe_files_that_are_none_are_told_apart(tmp_path):
    path = tmp_path / "mine_three.yaml"
    path.write_text("model: [")
    assert f"recipe={path} is no YAML" in call("fit", f"recipe={path}").complaint
    path.write_text("- model\n")
    assert "holds a list" in call("fit", f"recipe={path}").complaint


def test_a_trainer_argument_that_is_none_and_an_absent_gpu_are_named(tmp_path):
    assert "trainer.foo is no key" in fit(tmp_path, "+trainer.foo=1").complaint
    assert "max_epochs=-1" in fit(tmp_path, "trainer.max_epochs=-1").complaint


def test_a_run_that_would_train_nothing_says_so(tmp_path):
    for end in ("trainer.max_epochs=0", "trainer.max_steps=0"):
        complaint = fit(tmp_path, end).complaint
        assert complaint.startswith(f"{end}: nothing would be trained; give what ends the run")
    complaint = fit(tmp_path, "trainer.limit_train_batches=0").complaint
    assert complaint == (
        "trainer.limit_train_batches=0: give a whole number ≥ 1, or a number in (0, 1] or null"
    )


def test_a_switch_that_is_no_switch_and_processes_that_give_nothing_back_are_refused(tmp_path):
    assert fit(tmp_path, "compile=no").complaint == (
        "compile=no: give auto, true, false, reduce-overhead, max-autotune, "
        "max-autotune-no-cudagraphs"
    )
    complaint = fit(tmp_path, "trainer.strategy=ddp_spawn", "trainer.devices=2").complaint
    assert complaint.startswith("trainer.strategy=ddp_spawn: ")
    assert complaint.endswith("use ddp")
