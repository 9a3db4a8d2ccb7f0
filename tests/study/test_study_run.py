"""A study from its command line to a row, cut off in between and resumed."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rows
from one import flat, mean_of_last, without_paths
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
TINY = (
    "data.batch_size=32", "data.num_workers=0", "model.options.depth=1", "engine=auto",
    "model.options.embed_dim=64", "trainer.precision=32-true", "trainer.log_every_n_steps=1",
    "data.augment.auto_augment=null", "data.augment.reprob=0", "sparsity.schedule.mask_every=1",
)  # fmt: skip


def write_images(path: Path, count: int) -> None:
    """Squares whose colour is their label."""
    images = []
    for i in range(count):
        buffer = pa.BufferOutputStream()
        pixels = np.full((32, 32, 3), 250 if i % 2 else 5, np.uint8)
        Image.fromarray(pixels).save(buffer, "PNG")
        images.append({"bytes": buffer.getvalue().to_pybytes(), "path": None})
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    labels = pa.array([i % 2 for i in range(count)], pa.int64())
    pq.write_table(pa.table({"image": pa.array(images, kind), "label": labels}), path)


def command(folder: Path, epochs: int) -> list[str]:
    return [
        sys.executable, "scripts/study", "run", "--data", "cifar10", "--root", str(folder),
        "--variants", "w24", "--epochs", str(epochs), "--commit", "abc",
        "--out", str(folder / "out"), "--runs", str(folder / "runs"), "--", *TINY,
    ]  # fmt: skip


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_study_that_was_cut_off_goes_on_and_writes_its_row(tmp_path):
    write_images(tmp_path / "cifar10-train.parquet", 64)
    write_images(tmp_path / "cifar10-test.parquet", 10)
    first = subprocess.Popen(command(tmp_path, 16), cwd=ROOT, env=environment(), text=True)
    checkpoints = tmp_path / "runs"
    while first.poll() is None and not list(checkpoints.glob("*/checkpoints/last.ckpt")):
        time.sleep(0.05)
    first.terminate()
    assert first.wait() != 0, "it ended before it could be cut off"
    subprocess.run(command(tmp_path, 16), cwd=ROOT, env=environment(), check=True)
    (row,) = rows.read(tmp_path / "out" / "accuracy-cifar10.json")
    assert (row["variant"], row["seed"], row["epochs"], row["commit"]) == ("w24", 0, 16, "abc")
    assert row["resumed"]
    assert row["top1"] == 100
    assert 0 <= row["top1_sparse"] <= 100
    assert row["top1_val"] is None
    assert [
        top1 for top1, seconds in zip(row["curve"], row["curve_seconds"], strict=True) if seconds
    ]
    assert 0 < row["val_loss"] < row["train_loss"], "which mixing and smoothing raise"
    assert row["density"] == 0.5
    assert row["kept_energy"] > 0.5
    assert set(row["flip_rate"]) == {"first", "highest", "mean", "last"}
    assert row["config"]["sparsity.weight.decay"] == 2e-4
    assert row["config"]["trainer.max_epochs"] == 16


def test_the_loss_of_a_run_is_that_of_its_last_logs():
    assert mean_of_last({"train/loss": [9.0, 9.0, 1.0, 2.0]}, "train/loss", 2) == 1.5
    assert mean_of_last({}, "train/loss", 2) is None


def test_a_config_is_written_with_dotted_keys():
    assert flat({"a": 1, "b": {"c": None, "d": {}}}) == {"a": 1, "b.c": None, "b.d": {}}


def test_a_row_does_not_say_where_things_were_on_the_machine():
    config = {"run_dir": "/tmp/a", "data.root": "/data", "recipe": "cifar10_vit", "seed": 0}
    assert without_paths(config) == {"recipe": "cifar10_vit", "seed": 0}
