"""`validate`: the numbers of the run again, or of other data."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_helpers import ROOT, TINY, call, metric, shown
from PIL import Image


def write_photographs(folder):
    """24 noisy images of ten classes in each split, in the Hugging Face layout."""
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        rows = []
        for label in range(24):
            pixels = random.integers(0, 256, (20, 24, 3), dtype=np.uint8)
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG")
            rows.append({"image": {"bytes": file.getvalue(), "path": None}, "label": label % 10})
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}.parquet")
    return folder


@pytest.mark.parametrize("recipe", [[], ["recipe=vit_tiny_24"]], ids=["checkpoint", "recipe"])
def test_the_accuracy_is_that_of_the_run(trained, recipe):
    ended = call("validate", *recipe, f"checkpoint={trained.last}")
    assert ended.status == 0, ended.err
    last = {key: list(metric(trained.folder, key).values())[-1] for key in ("val/top1", "val/loss")}
    assert shown(ended.out, "top-1") == f"{100 * last['val/top1']:.2f} %"
    assert float(shown(ended.out, "loss")) == pytest.approx(last["val/loss"], abs=1e-4)
    assert shown(ended.out, "density") == "0.500 (sparse)"
    assert shown(ended.out, "throughput").endswith("images/s")


def test_a_checkpoint_of_the_dense_tail_is_validated_dense(dense_tail):
    ended = call("validate", f"checkpoint={dense_tail.last}")
    assert shown(ended.out, "density") == "1.000 (dense tail)"
    top1 = list(metric(dense_tail.folder, "val/top1").values())[-1]
    assert shown(ended.out, "top-1") == f"{100 * top1:.2f} %"


def test_other_data_can_be_given(trained, tmp_path):
    root = write_photographs(tmp_path)
    words = ["data=parquet", f"data.root={root}", "data.num_workers=0"]
    ended = call("validate", f"checkpoint={trained.last}", *words)
    assert ended.status == 0, ended.err
    assert shown(ended.out, "data") == f"parquet {root.name} (24 train / 24 val)"


def test_a_data_root_that_is_not_there_is_named_with_its_neighbours(trained, tmp_path):
    (tmp_path / "photographs").mkdir()
    words = ["data=parquet", f"data.root={tmp_path}/fotographs"]
    complaint = call("validate", f"checkpoint={trained.last}", *words).complaint
    assert f"data.root={tmp_path}/fotographs does not exist" in complaint
    assert "did you mean photographs" in complaint


@pytest.mark.slow
def test_a_run_of_a_recipe_file_is_validated_on_other_data_when_the_file_is_given(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "mine_too.yaml"
    mine.write_text((ROOT / "recipes" / "vit_tiny_24.yaml").read_text())
    run = tmp_path / "run"
    short = ["trainer.max_epochs=1", f"hydra.run.dir={run}"]
    assert call("fit", f"recipe={mine}", *TINY[1:], *short).status == 0
    words = [f"checkpoint={run}/checkpoints/last.ckpt", "data.batch_size=32"]
    ended = call("validate", f"recipe={mine}", *words)
    assert ended.status == 0, ended.err
    top1 = list(metric(run, "val/top1").values())[-1]
    assert shown(ended.out, "top-1") == f"{100 * top1:.2f} %"
