"""Stopping a run, and going on from where it stopped."""

import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import time

import pytest
from cli_helpers import Run, call, environment, fit, metric, shown

from sparsetrain.lightning.callbacks import interrupt

CTRL_C = ("+callbacks.probe._target_=probe.PressCtrlC", "+callbacks.probe.step=5")
ALL_OF_IT = "trainer.limit_val_batches=null"  # as `trained` validates


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory) -> Run:
    """A run that Ctrl-C ended in its second epoch."""
    folder = tmp_path_factory.mktemp("interrupted")
    return Run(folder, fit(folder, *CTRL_C, ALL_OF_IT))


def test_a_run_resumed_from_a_checkpoint_has_the_losses_of_the_uninterrupted_one(
    trained, interrupted, tmp_path
):
    ended = fit(tmp_path / "rest", f"checkpoint={interrupted.last}", ALL_OF_IT)
    assert ended.status == 0, ended.err
    whole, rest = (metric(run, "train/loss") for run in (trained.folder, tmp_path / "rest"))
    assert sorted(rest) == [4, 5, 6, 7]
    assert rest == {step: whole[step] for step in rest}
    for key in ("val/top1", "val/loss"):
        assert metric(tmp_path / "rest", key)[7] == metric(trained.folder, key)[7]


def test_ctrl_c_prints_the_command_that_goes_on_exactly(trained, interrupted, tmp_path):
    assert interrupted.ended.status == 130
    line, command = interrupted.ended.err.splitlines()
    saved = interrupted.folder / "checkpoints" / "interrupted.ckpt"
    assert line == f"sparsetrain: interrupted after step 6; saved {saved}"
    words = shlex.split(command.removeprefix("go on with: "))
    assert words[:2] == ["sparsetrain", "fit"]
    assert words[-1] == f"checkpoint={saved}"
    assert not any(word.startswith("hydra.run.dir") for word in words), "it has a folder of its own"
    again = call(*words[1:], "~callbacks.probe", f"hydra.run.dir={tmp_path}/rest")
    assert again.status == 0, again.err
    whole, rest = (metric(run, "train/loss") for run in (trained.folder, tmp_path / "rest"))
    assert sorted(rest) == [6, 7]
    assert rest == {step: whole[step] for step in rest}


@pytest.mark.slow
def test_a_second_ctrl_c_names_the_checkpoint_there_is_and_its_step(tmp_path, monkeypatch):
    monkeypatch.setattr(interrupt, "PASSED_ON", 0.0)  # seconds in which it is the first one
    ended = fit(tmp_path, *CTRL_C, "+callbacks.probe.times=2")
    assert ended.status == 130
    last = tmp_path / "checkpoints" / "last.ckpt"
    line, command = ended.err.splitlines()
    assert line == (
        f"sparsetrain: interrupted after step 5; the newest checkpoint is {last}, of step 4"
    )
    assert command.endswith(f" checkpoint={last}")
    words = (CTRL_C[0], "+callbacks.probe.times=2", "+callbacks.probe.step=1")
    ended = fit(tmp_path / "early", *words)
    assert ended.complaint == "interrupted after step 1; no checkpoint was written"


@pytest.mark.slow
def test_the_last_checkpoint_is_where_the_run_ended_and_there_is_nothing_to_go_on_with(tmp_path):
    ended = fit(tmp_path, "trainer.max_steps=3", "trainer.log_every_n_steps=50")
    assert ended.status == 0, ended.err
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert shown(ended.out, "last checkpoint") == str(last)
    assert shown(ended.out, "best checkpoint") == "none: no validation ran"
    assert (tmp_path / "report.html").is_file()
    again = fit(tmp_path / "again", "trainer.max_steps=3", f"checkpoint={last}")
    assert again.complaint == (
        f"checkpoint={last} is of step 3, where this run ends (trainer.max_epochs=2, max_steps=3): "
        "raise what ends it, or use `validate`"
    )


@pytest.mark.slow
def test_going_on_in_the_same_folder_keeps_the_metrics_of_before(tmp_path):
    assert fit(tmp_path, *CTRL_C).status == 130
    saved = tmp_path / "checkpoints" / "interrupted.ckpt"
    before = metric(tmp_path, "train/loss")
    ended = fit(tmp_path, f"checkpoint={saved}")
    assert ended.status == 0, ended.err
    assert f"kept in {tmp_path}/metrics.1.csv" in ended.out
    assert sorted(before) == [0, 1, 2, 3, 4, 5]
    assert sorted(metric(tmp_path, "train/loss")) == [6, 7]
    (tmp_path / "metrics.1.csv").replace(tmp_path / "metrics.csv")
    assert metric(tmp_path, "train/loss") == before


def test_a_checkpoint_of_another_model_is_named_with_the_first_differences(trained, tmp_path):
    complaint = fit(tmp_path, "model.options.depth=1", f"checkpoint={trained.last}").complaint
    assert f"checkpoint={trained.last} is of another model" in complaint
    assert complaint.count("network.blocks.1.") == 3
    assert " and 9 more; give the model.*" in complaint


@pytest.mark.slow
def test_at_a_terminal_there_is_a_bar_and_ctrl_c_ends_it_without_traceback(tmp_path):
    words = ("recipe=vit_tiny_24", "model.options.depth=1", "trainer.max_epochs=500")
    terminal, other = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "sparsetrain", "fit", *words],
        cwd=tmp_path,
        env={**environment(), "COLUMNS": "80", "TERM": "xterm"},
        stdin=other,
        stdout=other,
        stderr=other,
    )
    os.close(other)
    try:
        text = read_until(terminal, r"epoch 1/500 sparse.*left.*img/s.*loss", 90)
        process.send_signal(signal.SIGINT)
        text += read_until(terminal, None, 60)
        assert process.wait(timeout=60) == 130
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
    assert "Traceback" not in text
    assert "Warning" not in text
    assert len(list(tmp_path.glob("runs/vit_tiny_24/*/checkpoints/interrupted.ckpt"))) == 1
    command = re.search(r"go on with: (.*)", text)
    assert command, text[-2000:]
    assert command[1].startswith(f"python -m sparsetrain fit {' '.join(words)} checkpoint=runs/")


def read_until(terminal: int, pattern: str | None, seconds: float) -> str:
    """What a terminal shows until a pattern comes, or until its other end is closed."""
    text, end = "", time.monotonic() + seconds
    while pattern is None or not re.search(pattern, text):
        assert time.monotonic() < end, text[-2000:]
        if not select.select([terminal], [], [], 1.0)[0]:
            continue
        try:
            text += os.read(terminal, 65536).decode(errors="replace")
        except OSError:  # Linux: the other end is closed
            assert pattern is None, text[-2000:]
            break
    return text
