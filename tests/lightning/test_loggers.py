"""W&B is offline without a key that works, says why in a line, and never asks, hangs or raises."""

import builtins
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import wandb
from wandb.errors import AuthenticationError, CommError
from wandb_records import read_wandb

from sparsetrain.lightning import loggers, wandb_logger
from sparsetrain.lightning.loggers import forget_unreadable, has_key, mode_of_environment

KEY = "k" * 40


@pytest.fixture
def nobody(tmp_path, monkeypatch):
    """A user without any W&B settings; reading the terminal is an error."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name in ("WANDB_MODE", "WANDB_SILENT", "WANDB_HTTP_TIMEOUT", "WANDB_FINISH_TIMEOUT"):
        # So that what loggers set is taken back.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))

    def ask(*_):
        raise AssertionError("the user was asked")

    monkeypatch.setattr(builtins, "input", ask)
    return monkeypatch


class FakeRun:
    def define_metric(self, name, **_):
        pass


@pytest.fixture
def init(nobody):
    """What `wandb.init` is called with. Errors in the list are raised, one a call."""
    calls, errors = [], []

    def record(**arguments):
        calls.append(arguments)
        if errors:
            raise errors.pop(0)
        return FakeRun()

    nobody.setattr(wandb, "init", record)
    nobody.setattr(wandb, "login", lambda **_: True)
    return calls, errors


def start(folder, **arguments):
    return wandb_logger("project", "run", str(folder), **arguments)


def write_netrc(folder, machine):
    (folder / "netrc").write_text(f"machine {machine}\n  login user\n  password {KEY}\n")


def test_without_a_key_the_run_is_offline_without_a_word(tmp_path, init, capsys):
    start(tmp_path)
    [arguments] = init[0]
    assert (arguments["mode"], arguments["dir"]) == ("offline", str(tmp_path))
    assert capsys.readouterr().out == ""


def test_a_key_that_the_server_takes_makes_it_online(tmp_path, init, nobody):
    nobody.setenv("WANDB_API_KEY", KEY)
    start(tmp_path)
    assert init[0][0]["mode"] == "online"


def test_what_a_run_is_given_reaches_wandb(tmp_path, init):
    given = {"entity": "team", "group": "sweep", "job_type": "fit", "notes": "n", "id": "abc"}
    start(tmp_path, tags=["a", "b"], **given)
    [arguments] = init[0]
    assert {key: arguments[key] for key in given} == given
    assert arguments["tags"] == ["a", "b"]


@pytest.mark.parametrize("machine", ["api.wandb.ai", "forge"])
def test_a_key_in_netrc_for_any_name_of_the_server_is_a_key(tmp_path, nobody, machine):
    default = wandb.Settings().base_url.removeprefix("https://")
    write_netrc(tmp_path, default if machine == "forge" else machine)
    assert has_key()


def test_a_key_for_another_server_is_no_key_unless_that_server_is_used(tmp_path, nobody):
    write_netrc(tmp_path, "wandb.example.org")
    assert not has_key()
    nobody.setenv("WANDB_BASE_URL", "https://wandb.example.org/")
    assert has_key()


def test_a_server_and_its_port_may_come_from_wandb_login(tmp_path, nobody):
    write_settings(tmp_path / ".config", "base_url = http://wandb.lab:8080")
    write_netrc(tmp_path, "wandb.lab")
    assert not has_key()
    write_netrc(tmp_path, "wandb.lab:8080")
    assert has_key()


def test_an_identity_token_is_a_key(nobody):
    nobody.setenv("WANDB_IDENTITY_TOKEN_FILE", "/run/token")
    assert has_key()


@pytest.mark.parametrize("mode", ["offline", "disabled"])
@pytest.mark.parametrize("place", [".", ".config"])
def test_what_wandb_offline_wrote_counts_more_than_a_key(tmp_path, nobody, place, mode):
    nobody.chdir(tmp_path)
    nobody.setenv("WANDB_API_KEY", KEY)
    write_settings(tmp_path / place, f"mode = {mode}")
    assert mode_of_environment() == (mode, None)
    nobody.setenv("WANDB_MODE", "online")
    assert mode_of_environment() == ("online", None)


@pytest.mark.parametrize("text", ["mode = onlin", "mode", "\xff", "[other]"])
def test_settings_that_cannot_be_read_are_none(tmp_path, nobody, text):
    nobody.setenv("WANDB_API_KEY", KEY)
    write_settings(tmp_path / ".config", text)
    assert mode_of_environment() == ("online", None)


def write_settings(folder, line):
    (folder / "wandb").mkdir(parents=True, exist_ok=True)
    (folder / "wandb" / "settings").write_text(f"[default]\n{line}\n", encoding="latin-1")


def test_tags_of_the_environment_are_added(tmp_path, init, nobody):
    nobody.setenv("WANDB_TAGS", "b,c")
    start(tmp_path, tags=["a"])
    start(tmp_path, tags="one")
    start(tmp_path, tags=None)
    assert [call["tags"] for call in init[0]] == [["a", "b", "c"], ["one", "b", "c"], ["b", "c"]]


def test_wandb_stays_silent_where_its_variable_cannot_be_read(tmp_path, init, nobody):
    nobody.setenv("WANDB_SILENT", "perhaps")
    start(tmp_path)
    assert os.environ["WANDB_SILENT"] == "true"


@pytest.mark.parametrize("text", ["my notes\n", "machine api.wandb.ai login\n", ""])
def test_a_netrc_without_a_password_is_no_key(tmp_path, nobody, text):
    (tmp_path / "netrc").write_text(text)
    assert not has_key()


@pytest.mark.parametrize(
    ("given", "mode"), [("offline", "offline"), ("dryrun", "offline"), ("disabled", "disabled")]
)
def test_a_mode_of_the_environment_counts_more_than_a_key(nobody, given, mode):
    nobody.setenv("WANDB_MODE", given)
    nobody.setenv("WANDB_API_KEY", KEY)
    assert mode_of_environment() == (mode, None)


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        (
            {"WANDB_MODE": "onlin", "WANDB_API_KEY": KEY},
            "wandb: WANDB_MODE=onlin is no mode (online, offline, disabled); "
            "this run is logged offline\n",
        ),
        (
            {"WANDB_MODE": "online"},
            "wandb: WANDB_MODE=online, but there is no key (WANDB_API_KEY, `wandb login`); "
            "this run is logged offline\n",
        ),
    ],
)
def test_a_mode_that_cannot_be_is_offline_with_a_line(
    tmp_path, init, nobody, capsys, variables, line
):
    for name, value in variables.items():
        nobody.setenv(name, value)
    start(tmp_path)
    assert init[0][0]["mode"] == "offline"
    assert capsys.readouterr().out == line


def test_a_key_that_the_server_refuses_is_offline_with_a_line(tmp_path, init, nobody, capsys):
    def refuse(**_):
        raise AuthenticationError("returned error 401.\nmore")

    nobody.setenv("WANDB_API_KEY", KEY)
    nobody.setattr(wandb, "login", refuse)
    start(tmp_path)
    assert init[0][0]["mode"] == "offline"
    assert capsys.readouterr().out == ("wandb: returned error 401; this run is logged offline\n")


def test_a_run_that_cannot_start_online_starts_offline_and_else_not_at_all(
    tmp_path, init, nobody, capsys
):
    calls, errors = init
    errors += [CommError("no such entity"), OSError("the disk is full")]
    nobody.setenv("WANDB_API_KEY", KEY)
    start(tmp_path)
    assert [call["mode"] for call in calls] == ["online", "offline", "disabled"]
    assert capsys.readouterr().out.splitlines() == [
        "wandb: no such entity; this run is logged offline",
        "wandb: the disk is full; this run is not logged there",
    ]


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("WANDB_INIT_TIMEOUT", "soon", "WANDB_INIT_TIMEOUT=soon"),
        ("WANDB_BASE_URL", "wandb", "WANDB_BASE_URL=wandb"),
        ("WANDB_API_KEY", " secret", "WANDB_API_KEY"),
    ],
)
def test_a_variable_that_wandb_cannot_read_is_told_and_forgotten(
    nobody, capsys, name, value, shown
):
    nobody.setenv(name, value)
    forget_unreadable()
    assert name not in os.environ
    assert capsys.readouterr().out == f"wandb: {shown} cannot be read and is ignored\n"


def test_processes_beside_the_first_start_no_run(tmp_path, init, nobody):
    nobody.setattr(loggers.rank_zero_only, "rank", 1)
    start(tmp_path)
    assert init[0] == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning:wandb")
def test_an_offline_run_reads_back_as_it_was_logged(tmp_path, nobody):
    nobody.setenv("WANDB_MODE", "offline")
    logger = wandb_logger("project", "run", str(tmp_path), tags=["a"], id="the-id")
    try:
        for step, (loss, top1) in enumerate([(3.0, 0.2), (1.0, 0.5), (2.0, 0.4)]):
            logger.log_metrics(
                {"train/loss": loss, "val/top1": top1, "sparsity/flip_rate/a": 0.1}, step=step
            )
    finally:
        wandb.finish()  # not teardown: no run of this process could start after it
    written = read_wandb(tmp_path)
    assert (written.run.project, written.run.run_id) == ("project", "the-id")
    assert list(written.run.tags) == ["a"]
    assert [row["trainer/global_step"] for row in written.history] == [0, 1, 2]
    assert written.summary["val/top1"] == {"max": 0.5, "last": 0.4}
    assert written.summary["train/loss"] == {"min": 1.0, "last": 2.0}
    assert written.metrics["*"].step_metric == "trainer/global_step"
    assert written.metrics["sparsity/flip_rate/*"].options.hidden
    assert not written.metrics["val/top1"].options.hidden


PROGRAM = """
import sys, time
from sparsetrain.lightning import wandb_logger
begin = time.perf_counter()
logger = wandb_logger("project", "run", sys.argv[1])
print("seconds", time.perf_counter() - begin)
logger.log_metrics({"train/loss": 1.0}, step=0)
"""


@pytest.mark.slow  # a process each: W&B reads the environment once
@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"WANDB_API_KEY": "abc"}, "WANDB_API_KEY invalid"),
        ({"WANDB_API_KEY": KEY, "WANDB_BASE_URL": "http://127.0.0.1:9"}, "no answer from http"),
        ({"WANDB_API_KEY": KEY, "WANDB_BASE_URL": "silent"}, "no answer from http"),
        ({"WANDB_MODE": "onlin"}, "WANDB_MODE=onlin is no mode"),
    ],
    ids=["broken key", "no network", "a server that never answers", "unknown mode"],
)
def test_a_real_start_takes_seconds_and_is_offline(tmp_path, nobody, variables, line):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        for name, value in variables.items():
            port = silent.getsockname()[1]
            nobody.setenv(name, f"http://127.0.0.1:{port}" if value == "silent" else value)
        nobody.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        begin = time.perf_counter()
        ended = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=100,
            stdin=subprocess.DEVNULL,
        )
        wall = time.perf_counter() - begin
    assert ended.returncode == 0, ended.stderr
    said, seconds = ended.stdout.splitlines()
    assert said.startswith(f"wandb: {line}")
    assert said.endswith("; this run is logged offline")
    assert "Traceback" not in ended.stderr
    assert float(seconds.split()[1]) < 30
    assert wall < 60
    assert read_wandb(Path(tmp_path)).history[0]["train/loss"] == 1.0
