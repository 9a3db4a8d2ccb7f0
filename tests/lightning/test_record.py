"""run.json: what a run says of itself, while it runs and however it ends."""

import json

import numpy as np
import pytest
import pytorch_lightning as pl
from lightning_helpers import CHATTER, Stranger, make_trainer, vectors, weights24
from pytorch_lightning.loggers import CSVLogger

from sparsetrain import STE, SparsifyModel, SparsityMonitor
from sparsetrain.lightning import MaskSnapshots
from sparsetrain.lightning.callbacks.record import KeepRecord
from sparsetrain.lightning.report import MaskPair, Run, Span, read_run, write_record

pytestmark = CHATTER


class Stops(pl.Callback):
    """Raises after three steps."""

    def __init__(self, error):
        self.error = error

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 3:
            raise self.error


class Looks(pl.Callback):
    """Reads what there is when the second batch begins."""

    def __init__(self, folder):
        self.folder = folder
        self.seen = Run("", "")

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == 1:
            self.seen = read_run(self.folder)


def run(folder, *callbacks, **schedule):
    trainer = make_trainer(
        folder,
        SparsifyModel(weights24(STE(), **schedule)),
        SparsityMonitor(),
        snapshots := MaskSnapshots(side=8),
        KeepRecord(str(folder), Run("a title", "", overrides=("seed=1",), config={"seed": 1})),
        *callbacks,
        logger=CSVLogger(folder, name="", version=""),
        log_every_n_steps=1,
        max_epochs=2,
    )
    module = Stranger(lr=3.0)
    trainer.fit(module, vectors())
    return snapshots, module


def test_a_finished_run_has_its_phases_layers_masks_and_numbers(tmp_path):
    snapshots, module = run(tmp_path, dense_warmup=0.25, dense_tail=0.5)
    got = read_run(tmp_path)
    assert (got.title, got.label, got.state) == ("a title", tmp_path.name, "finished")
    assert (got.overrides, got.config) == (("seed=1",), {"seed": 1})
    assert got.phases == (
        Span("dense warmup", 0, 2),
        Span("sparse", 2, 4),
        Span("dense tail", 4, 8),
    )
    assert [(row.name, row.shape, row.density) for row in got.layers] == [
        ("body.0", (16, 8), 1.0),
        ("body.2", (4, 16), 1.0),
    ]
    assert all(0.5 < (row.kept_energy or 0) < 1 for row in got.layers)
    after = snapshots.now(module)
    for pair in got.masks:
        assert (pair.before == snapshots.before[pair.name].numpy()).all()
        assert (pair.after == after[pair.name].numpy()).all()
    assert [pair.name for pair in got.masks] == ["body.0", "body.2"]
    assert got.metrics["sparsity/phase"][1] == (0, 0, 1, 1, 2, 2, 2, 2)
    assert got.shares.startswith("sparse: ")


def test_a_run_that_still_runs_can_be_read(tmp_path):
    looks = Looks(tmp_path)
    run(tmp_path, looks)
    assert looks.seen.state == "running"
    assert [row.name for row in looks.seen.layers] == ["body.0", "body.2"]


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (ValueError("step 3: loss is nan\nmore"), "stopped: step 3: loss is nan"),
        (ValueError(), "stopped: ValueError"),
        (KeyboardInterrupt(), "interrupted"),
    ],
)
def test_a_run_that_stops_says_why_and_keeps_what_it_measured(tmp_path, error, state):
    with pytest.raises((ValueError, SystemExit)):
        run(tmp_path, Stops(error))
    got = read_run(tmp_path)
    assert got.state == state
    assert got.phases == (Span("sparse", 0, 3),)
    assert [row.density for row in got.layers] == [0.5, 0.5]


def test_a_mask_of_any_size_reads_back(tmp_path):
    mask = np.arange(35).reshape(5, 7) % 3 > 0
    write_record(tmp_path, Run("t", "", masks=(MaskPair("w", mask, ~mask),)))
    [pair] = read_run(tmp_path).masks
    assert (pair.before == mask).all()
    assert (pair.after == ~mask).all()


def test_numbers_alone_are_a_run(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,train/loss\n0,1.5\n")
    got = read_run(tmp_path, "mine")
    assert (got.title, got.metrics) == ("mine", {"train/loss": ((0,), (1.5,))})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "run.json is no JSON"),
        ("[]", "has format None, and this sparsetrain reads 1"),
        ('{"format": 2}', "has format 2"),
        ('{"format": 1}', "is not as `fit` wrote it: KeyError"),
    ],
)
def test_a_file_that_is_no_record_is_refused_in_a_line(tmp_path, text, message):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_run(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_record_is_json_for_other_tools(tmp_path):
    write_record(tmp_path, Run("t", "", facts=(("seed", "1"),)))
    assert json.loads((tmp_path / "run.json").read_text())["facts"] == [["seed", "1"]]


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no run"):
        read_run(tmp_path)
