"""A run that a signal ends is saved, and its resume equals an uninterrupted run."""

import os
import signal
import subprocess
import sys
import time

import pytest
from cli_helpers import LIGHT, TINY, environment, fit, metric, spawn
from PIL import Image

from sparsetrain.cli.explain import explained, lost_process, terminable
from sparsetrain.lightning import read_checkpoint

ALL_OF_IT = "trainer.limit_val_batches=null"  # six batches
AVERAGED = ("callbacks=ema", "callbacks.ema.decay=0.5")
LAST_BATCH = ("+callbacks.probe._target_=probe.PressCtrlC", "+callbacks.probe.step=3")


def in_validation(step: int) -> tuple[str, ...]:
    """Ctrl-C in the third batch of the validation after an optimizer step."""
    kind = "+callbacks.probe._target_=probe.PressCtrlCInValidation"
    return kind, f"+callbacks.probe.step={step}", "+callbacks.probe.batch=2"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert fit(folder, *AVERAGED, ALL_OF_IT).status == 0
    return folder


@pytest.mark.parametrize(
    ("probe", "step"), [(LAST_BATCH, 4), (in_validation(4), 4), (in_validation(8), 8)]
)
def test_a_validation_that_an_interrupt_cut_off_is_whole_in_the_resumed_run(
    whole, tmp_path, probe, step
):
    ended = fit(tmp_path, *AVERAGED, ALL_OF_IT, *probe)
    assert ended.status == 130
    saved = tmp_path / "checkpoints" / "interrupted.ckpt"
    assert f"interrupted after step {step}; saved {saved}" in ended.err
    again = fit(tmp_path / "rest", *AVERAGED, ALL_OF_IT, f"checkpoint={saved}")
    assert again.status == 0, again.err
    for key in ("train/loss", "val/top1", "val/loss"):
        before = metric(tmp_path, key)
        rest = metric(tmp_path / "rest", key) if key != "train/loss" or step < 8 else {}
        assert not before.keys() & rest.keys()
        assert before | rest == metric(whole, key), key
    states = [
        read_checkpoint(run / "checkpoints" / "last.ckpt") for run in (whole, tmp_path / "rest")
    ]
    for key in ("state_dict", "current_model_state"):
        (one, other) = (state[key] for state in states)
        assert all(one[name].equal(other[name]) for name in one)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_a_terminal_that_closes_and_usr1_save_as_ctrl_c_does(tmp_path, number):
    probe = (*LAST_BATCH[:1], "+callbacks.probe.step=5", f"+callbacks.probe.number={int(number)}")
    ended = fit(tmp_path, *probe)
    saved = tmp_path / "checkpoints" / "interrupted.ckpt"
    assert ended.status == 128 + number
    assert ended.err.splitlines()[0] == (
        f"sparsetrain: interrupted by {number.name} after step 6; saved {saved}"
    )
    assert signal.getsignal(number) == signal.SIG_DFL


def test_under_nohup_a_terminal_that_closes_ends_nothing(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        ended = fit(tmp_path, *LAST_BATCH, "+callbacks.probe.number=1")
    finally:
        signal.signal(signal.SIGHUP, before)
    assert ended.status == 0, ended.err


def test_a_loading_process_that_is_killed_is_named_in_one_line(tmp_path):
    probe = ("+callbacks.probe._target_=probe.KillALoadingProcess", "+callbacks.probe.step=5")
    words = ("data.num_workers=1", "data.batch_size=8", "trainer.limit_train_batches=40")
    ended = fit(tmp_path, *words, "+callbacks.last.every_n_steps=4", *probe)
    # Where the batch is being handed over, it is the connection that ends.
    assert ended.complaint.startswith(("DataLoader worker (pid", "another process of the run has"))
    assert "if memory ran out, lower data.num_workers or data.prefetch_factor" in ended.complaint
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert f"the newest checkpoint is {last}, of step" in ended.complaint


def test_errors_of_a_lost_process_are_told_from_others():
    gloo = "[gloo/transport/tcp/pair.cc:538] Read error [127.0.0.1]:46485: "
    told = lost_process(RuntimeError(f"{gloo}Connection reset by peer\nmore"))
    assert told == f"another process of the run has ended: {gloo}Connection reset by peer"
    told = lost_process(ConnectionResetError(104, "Connection reset by peer"))
    assert told is not None
    assert told.startswith("another process of the run has ended: [Errno 104] Connection reset by")
    assert lost_process(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None


def test_sigterm_outside_of_training_ends_in_one_line(capsys):
    # A loading process that dies while Lightning tears down leaves Lightning's handler there.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with pytest.raises(SystemExit) as end, terminable(), explained():
        os.kill(os.getpid(), signal.SIGTERM)
    assert end.value.code == 143
    assert capsys.readouterr().err == "sparsetrain: interrupted by SIGTERM\n"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


DDP = ("trainer.accelerator=cpu", "trainer.devices=2", "trainer.strategy=ddp", "logger=csv")


def start(folder, *words):
    """`fit` in two processes of a session of their own, and the file of what it says."""
    said = folder / "said"
    with said.open("w") as file:
        command = ["fit", *TINY, *DDP, "trainer.max_epochs=300", f"hydra.run.dir={folder}/run"]
        run = subprocess.Popen(
            [sys.executable, "-m", "sparsetrain", *command, *words],
            env=environment(),
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return run, said


def wait_until(condition, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def processes(session: int) -> list[str]:
    """Numbers of the processes of a session that run."""
    words = ["ps", "-s", str(session), "-o", "pid=,stat="]
    lines = subprocess.run(words, capture_output=True, text=True).stdout.splitlines()
    return [line.split()[0] for line in lines if line.split()[1][0] != "Z"]


@pytest.mark.slow
@pytest.mark.parametrize("leave", ["false", "true"])
def test_processes_may_end_slowly(tmp_path, leave):
    probe = ("+callbacks.probe._target_=probe.EndSlowly", f"+callbacks.probe.leave={leave}")
    run, said = start(tmp_path, *probe)
    metrics = tmp_path / "run" / "metrics.csv"
    wait_until(lambda: metrics.exists() and metrics.read_text().count("\n") > 2)
    run.terminate()
    assert run.wait(60) == 143, said.read_text()
    assert "interrupted by SIGTERM after step" in said.read_text()
    wait_until(lambda: not processes(run.pid), 20)


@pytest.mark.slow
def test_a_signal_that_comes_to_the_second_process_alone_is_named_by_the_first(tmp_path):
    stop = ("+callbacks.probe._target_=probe.PressCtrlC", "+callbacks.probe.step=5")
    run, said = start(tmp_path, *stop, "+callbacks.probe.number=15", "+callbacks.probe.rank=1")
    assert run.wait(90) == 143, said.read_text()
    saved = tmp_path / "run" / "checkpoints" / "interrupted.ckpt"
    line = f"sparsetrain: interrupted by SIGTERM after step 7; saved {saved}"
    assert line in said.read_text().splitlines()
    wait_until(lambda: not processes(run.pid), 20)


@pytest.mark.slow
def test_slurm_ends_a_job_that_it_queues_again_and_the_line_says_why(tmp_path, monkeypatch):
    job = tmp_path / "scontrol"
    job.write_text(
        f"#!/bin/sh\necho $* > {tmp_path}/asked\n"
        "(for i in $(seq 100); do kill -TERM $PPID || exit; sleep 0.05; done) 2> /dev/null &\n"
    )
    job.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    names = {"JOB_ID": 17, "NTASKS": 1, "PROCID": 0, "LOCALID": 0, "NODEID": 0, "JOB_NAME": "vit"}
    for name, value in names.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    stop = ("+callbacks.probe._target_=probe.PressCtrlC", "+callbacks.probe.step=5")
    words = (*LIGHT, *stop, "+callbacks.probe.number=10", f"hydra.run.dir={tmp_path}/run")
    ended = spawn("-m", "sparsetrain", "fit", *TINY, *words, cwd=tmp_path)
    assert (tmp_path / "asked").read_text() == "requeue 17\n"
    assert ended.complaint == "SLURM's time is up after step 6: saved, queued again"
    assert ended.status == 138
    assert (tmp_path / "run" / "checkpoints" / "hpc_ckpt_1.ckpt").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_first_process_that_ends_before_training_leaves_no_other_behind(tmp_path, number):
    run, said = start(tmp_path)
    wait_until(lambda: len(processes(run.pid)) > 1)
    time.sleep(4)  # the second one is past its imports, and waits for the first
    run.send_signal(number)
    assert run.wait(60) == (143 if number == signal.SIGTERM else -9)
    if number == signal.SIGTERM:
        assert said.read_text().splitlines()[-1] == (
            "sparsetrain: interrupted by SIGTERM after step 0; no checkpoint was written"
        )
    wait_until(lambda: not processes(run.pid), 20)


def test_an_image_that_goes_while_a_run_trains_is_named_with_the_newest_checkpoint(tmp_path):
    train = tmp_path / "set"
    for label in range(2):
        (train / f"{label}").mkdir(parents=True)
        for number in range(20):
            Image.new("RGB", (16, 16)).save(train / f"{label}" / f"{number}.png")
    words = ("data=imagenet", f"data.root={train}", "data.val_fraction=0.1", "data.gpu=null")
    words += ("data.batch_size=4", "data.num_workers=0", "trainer.limit_val_batches=0")
    probe = ("+callbacks.probe._target_=probe.RemoveFolder", "+callbacks.probe.step=5")
    run = tmp_path / "run"
    ended = fit(run, *words, *probe, f"+callbacks.probe.folder={train}")
    assert " is gone: data.root has changed since training began; " in ended.complaint
    assert ended.complaint.endswith(
        f"the newest checkpoint is {run}/checkpoints/last.ckpt, of step 4"
    )
