"""What `fit` leaves for Weights & Biases, read back from its offline run."""

from pathlib import Path

import pytest
import torch
import wandb
from cli_helpers import TINY, WHOLE, call, fit
from PIL import Image
from wandb.errors import AuthenticationError
from wandb_records import read_wandb

SHORT = ("model.options.depth=1", "trainer.max_epochs=1", "trainer.limit_val_batches=1")


@pytest.fixture(scope="module")
def written(trained):
    return read_wandb(trained.folder)


def test_the_run_has_the_composed_config_and_how_it_was_started(written):
    assert written.config["sparsity"]["weight"]["decay"] == 2e-5
    assert written.config["model"]["options"]["depth"] == 2
    assert written.config["run"]["command"].startswith("python -m sparsetrain fit recipe=")
    assert written.config["run"]["seed"] == "0"
    assert written.exit_code == 0


def test_the_run_is_named_tagged_and_typed(written, trained, tmp_path):
    assert (written.run.display_name, written.run.job_type) == ("vit_tiny_24", "fit")
    assert list(written.run.tags) == ["weights24", "digits"]
    assert written.run.run_group == ""
    words = ("entity=lab", "notes='a try'", "tags=[mine]", "group=study", "job_type=test", "id=abc")
    ended = fit(tmp_path, *WHOLE, *SHORT, *(f"logger.wandb.{word}" for word in words))
    assert ended.status == 0, ended.err
    run = read_wandb(tmp_path).run
    said = (run.entity, run.notes, list(run.tags), run.run_group, run.job_type, run.run_id)
    assert said == ("lab", "a try", ["mine"], "study", "test", "abc")


def test_wandbs_variables_name_a_run_and_else_the_words_that_make_it_another(tmp_path, monkeypatch):
    assert fit(tmp_path / "dense", *WHOLE, *SHORT, "sparsity=dense").status == 0
    assert read_wandb(tmp_path / "dense").run.display_name == "vit_tiny_24 sparsity=dense"
    for name in ("project", "name", "job_type"):
        monkeypatch.setenv(f"WANDB_{name.upper()}", f"my-{name}")
    monkeypatch.setenv("WANDB_TAGS", "mine")
    assert fit(tmp_path / "named", *WHOLE, *SHORT).status == 0
    run = read_wandb(tmp_path / "named").run
    assert (run.project, run.display_name, run.job_type) == ("my-project", "my-name", "my-job_type")
    assert list(run.tags) == ["weights24", "digits", "mine"]


def test_the_summary_has_the_best_and_the_last_values(written, trained):
    logged = [row["val/top1"] for row in written.history if "val/top1" in row]
    assert written.summary["val/top1"] == {"max": max(logged), "last": logged[-1]}
    assert written.summary["perf/memory_gib"]["max"] > 0


def test_gradient_norm_phase_time_and_layers_are_in_the_history(written):
    rows = [row for row in written.history if "train/grad_norm" in row]
    assert [row["trainer/global_step"] for row in rows] == list(range(8))
    assert all(row["train/grad_norm"] > 0 and row["sparsity/phase"] == 1 for row in rows)
    elapsed = [row["perf/elapsed_s"] for row in rows]
    assert elapsed == sorted(elapsed)


def test_layers_are_one_map_and_their_own_metrics_have_no_panels(written, trained):
    layers = {k for row in written.history for k in row if k.startswith("sparsity/kept_energy/")}
    assert len(layers) == 4
    assert written.metrics["sparsity/kept_energy/*"].options.hidden
    # After each validation; masks flip from their second choice on.
    for key, count in (("maps/kept_energy", 2), ("maps/flip_rate", 1)):
        assert sum(f"{key}/path" in row for row in written.history) == count
        [folder] = trained.folder.glob("wandb/offline-run-*/files")
        with Image.open(folder / written.summary[f"{key}/path"]) as picture:
            assert picture.height < 200 < 800 < picture.width


def test_masks_layers_report_and_checkpoint_are_artifacts(written, trained):
    assert {"run_table", "report", "model"} <= written.artifacts.keys()
    [model] = written.artifacts["model"].manifest.contents
    assert model.local_path == str(trained.folder / "checkpoints" / "best.ckpt")
    [report] = written.artifacts["report"].manifest.contents
    assert report.path == "report.html"
    assert report.size == (trained.folder / "report.html").stat().st_size
    assert written.summary["layers/nrows"] == 10
    captions = written.summary["masks/captions"]
    assert captions == [f"blocks.{i}.mlp.{fc}" for i in (0, 1) for fc in ("fc1", "fc2")]


def test_a_run_that_goes_on_is_the_same_run(written, trained, tmp_path):
    ended = fit(tmp_path, *WHOLE, f"checkpoint={trained.last}", "trainer.max_epochs=3")
    assert ended.status == 0, ended.err
    epochs = [line.split()[1] for line in ended.out.splitlines() if line.startswith("epoch ")]
    assert epochs == ["3/3"], "the epoch that had ended has no second line"
    on = read_wandb(tmp_path)
    assert on.run.run_id == written.run.run_id
    steps = [row["trainer/global_step"] for row in on.history if "train/loss" in row]
    assert steps == [8, 9, 10, 11]
    # Its clock goes on too.
    before = max(row["perf/elapsed_s"] for row in written.history if "perf/elapsed_s" in row)
    assert min(row["perf/elapsed_s"] for row in on.history if "perf/elapsed_s" in row) > before / 2


@pytest.mark.slow
def test_runs_of_a_sweep_are_a_group_of_runs_of_their_own(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = (*TINY, "trainer.max_epochs=3", "trainer.limit_val_batches=1", "seed=0,1")
    ended = call("fit", "-m", *words, f"checkpoint={trained.last}")
    assert ended.status == 0, ended.err
    [sweep] = Path("runs/sweep").iterdir()
    runs = [read_wandb(sweep / job).run for job in ("0", "1")]
    assert {run.run_group for run in runs} == {f"sweep {sweep.name}"}
    ids = {run.run_id for run in runs} | {read_wandb(trained.folder).run.run_id}
    assert len(ids) == 3
    assert [run.display_name for run in runs] == ["vit_tiny_24 seed=0", "vit_tiny_24 seed=1"]


def test_a_run_that_stops_sends_an_alert_and_ends_as_failed(tmp_path):
    ended = fit(tmp_path, *WHOLE, *SHORT, "optimizer.lr=1e30", "optimizer.warmup_epochs=0")
    assert "not finite" in ended.complaint or "loss is nan" in ended.complaint
    written = read_wandb(tmp_path)
    [alert] = written.alerts
    assert alert.title.startswith("vit_tiny_24 stopped at step ")
    assert alert.text.startswith("stopped: step ")
    assert alert.level == "ERROR"
    assert written.exit_code == 1


def test_a_refused_key_stops_nothing(tmp_path, monkeypatch):
    def refuse(**_):
        raise AuthenticationError("returned error 401.")

    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setattr(wandb, "login", refuse)
    ended = fit(tmp_path, *WHOLE, *SHORT)
    assert ended.status == 0, ended.err
    assert "wandb: returned error 401; this run is logged offline\n" in ended.out
    assert read_wandb(tmp_path).history


@pytest.mark.slow
def test_without_wandb_nothing_is_asked_of_it(tmp_path):
    ended = fit(tmp_path, *SHORT, "logger=csv")
    assert ended.status == 0, ended.err
    assert not (tmp_path / "wandb").exists()
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert "sparsetrain_wandb" not in saved
