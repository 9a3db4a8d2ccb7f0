"""Full disks, folders that cannot be made, folders that are in use: one line, nothing lost."""

import multiprocessing
import os
from pathlib import Path

import pytest
from cli_helpers import call, fit
from test_cli_resume import CTRL_C

from sparsetrain.cli.folder import check_unused, make_folder, own_folder
from sparsetrain.cli.slurm import restarted_from, with_job_folder
from sparsetrain.lightning import read_checkpoint


def test_a_full_disk_ends_the_run_in_one_line_and_the_checkpoint_of_before_is_whole(tmp_path):
    probe = ("+callbacks.probe._target_=probe.FillTheDisk", "+callbacks.probe.step=5")
    complaint = fit(tmp_path, *probe, "logger=csv").complaint
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert "File too large" in complaint
    assert complaint.endswith(f"the newest checkpoint is {last}, of step 4")
    assert read_checkpoint(last)["global_step"] == 4
    assert {path.name for path in last.parent.iterdir()} == {"best.ckpt", "last.ckpt"}


def test_sigterm_saves_as_ctrl_c_does(tmp_path):
    ended = fit(tmp_path, *CTRL_C, "+callbacks.probe.number=15")
    saved = tmp_path / "checkpoints" / "interrupted.ckpt"
    assert ended.status == 143
    assert ended.err.splitlines()[0] == (
        f"sparsetrain: interrupted by SIGTERM after step 6; saved {saved}"
    )
    assert read_checkpoint(saved)["global_step"] == 6


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    complaint = fit(tmp_path / "file" / "run").complaint
    assert complaint == (
        f"hydra.run.dir={tmp_path}/file/run: the folder {tmp_path}/file/run cannot be made: "
        "Not a directory"
    )
    with pytest.raises(ValueError, match="cannot be made"):
        make_folder(Path("/proc/nowhere"), "out=/proc/nowhere/x.onnx")


def test_run_dir_is_the_folder_of_hydra_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = call("fit", "recipe=vit_tiny_24", "run_dir=mine", "data.batch_size=2000", "logger=csv")
    assert "data.batch_size=2000" in ended.complaint
    assert (tmp_path / "mine" / ".hydra" / "overrides.yaml").exists()
    assert not (tmp_path / "runs").exists()


def test_a_run_folder_is_named_as_it_was_written(tmp_path):
    (tmp_path / "file").touch()
    for key in ("run_dir", "hydra.run.dir"):
        said = call("fit", "recipe=vit_tiny_24", f"{key}={tmp_path}/file/run").complaint
        assert said.startswith(f"{key}={tmp_path}/file/run: the folder ")
    said = call("fit", "recipe=vit_tiny_24", f"run_dir={tmp_path}/a,b").complaint
    assert said.startswith(f"run_dir={tmp_path}/a,b has several values")


def test_a_folder_with_another_run_is_refused_and_nothing_in_it_changes(trained):
    def files():
        # Without W&B's, whose own process writes for seconds after the run.
        inside = [
            p
            for p in trained.folder.rglob("*")
            if "wandb" not in p.relative_to(trained.folder).parts
        ]
        return {path: path.stat().st_mtime_ns for path in inside}

    before = files()  # without the folder itself, where a lock came and went
    complaint = fit(trained.folder, "seed=1").complaint
    assert f"hydra.run.dir={trained.folder}: {trained.folder} holds a run already" in complaint
    assert f"go on from it with checkpoint={trained.folder}/checkpoints/" in complaint
    assert files() == before
    check_unused(trained.folder, str(trained.last), "run_dir")


def hold(folder, there, done):
    with own_folder(folder, "run_dir"):
        there.set()
        done.wait(60)


def test_two_runs_do_not_share_a_folder(tmp_path):
    context = multiprocessing.get_context("fork")
    there, done = context.Event(), context.Event()
    other = context.Process(target=hold, args=(tmp_path, there, done))
    other.start()
    assert there.wait(60)
    complaint = call("fit", "recipe=vit_tiny_24", f"hydra.run.dir={tmp_path}").complaint
    assert f"another run is writing into {tmp_path}" in complaint
    other.kill()
    other.join()
    with own_folder(tmp_path, "run_dir"):
        assert (tmp_path / ".running").exists(), "one that was killed holds nothing"
    assert list(tmp_path.iterdir()) == []


def test_a_job_of_slurm_has_one_folder_and_goes_on_from_its_newest_checkpoint(
    tmp_path, monkeypatch
):
    words = ["recipe=vit_tiny_24"]
    assert with_job_folder(words) == words
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert with_job_folder(words) == [*words, "hydra.run.dir=runs/vit_tiny_24/slurm-17"]
    assert with_job_folder([*words, "hydra.run.dir=x"]) == [*words, "hydra.run.dir=x"]
    (tmp_path / "checkpoints").mkdir()
    for age, name in enumerate(("best.ckpt", "hpc_ckpt_1.ckpt", "last.ckpt")):
        (tmp_path / "checkpoints" / name).touch()
        os.utime(tmp_path / "checkpoints" / name, (0, 1000 - age))
    assert restarted_from(tmp_path) is None
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert restarted_from(tmp_path) == tmp_path / "checkpoints" / "hpc_ckpt_1.ckpt"
    assert restarted_from(tmp_path / "nowhere") is None
