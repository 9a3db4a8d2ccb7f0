"""W&B is offline without a key, and never asks for one."""

import builtins
import os

import pytest
import wandb

from sparsetrain.lightning import wandb_logger
from sparsetrain.lightning.loggers import has_key


@pytest.fixture
def nobody(tmp_path, monkeypatch):
    """A user without any W&B settings; contacting W&B or reading the terminal is an error."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name in ("WANDB_MODE", "WANDB_SILENT"):
        # So that what loggers set is taken back.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))

    def ask(*_):
        raise AssertionError("the user was asked")

    monkeypatch.setattr(builtins, "input", ask)
    return monkeypatch


@pytest.fixture
def init(nobody):
    """What `wandb.init` is called with, and the mode of the environment then."""
    calls = []

    def record(**arguments):
        calls.append((arguments, os.environ.get("WANDB_MODE")))

    nobody.setattr(wandb, "init", record)
    nobody.setattr(wandb, "run", None)
    return calls


def start(folder):
    """The logger, after Lightning has asked it for the run."""
    logger = wandb_logger("project", "run", str(folder))
    _ = logger.experiment
    return logger


def write_netrc(folder, machine):
    (folder / "netrc").write_text(f"machine {machine}\n  login user\n  password {'k' * 40}\n")


def test_without_a_key_the_run_is_offline(tmp_path, init, nobody):
    start(tmp_path)
    [(arguments, mode)] = init
    assert mode == "dryrun"
    assert arguments["dir"] == str(tmp_path)
    assert "anonymous" not in arguments


def test_a_key_in_the_environment_makes_it_online(tmp_path, init, nobody):
    nobody.setenv("WANDB_API_KEY", "k" * 40)
    start(tmp_path)
    assert init[0][1] is None


def test_a_key_in_netrc_makes_it_online(tmp_path, init):
    write_netrc(tmp_path, "api.wandb.ai")
    start(tmp_path)
    assert init[0][1] is None


def test_a_key_for_another_server_is_no_key_unless_that_server_is_used(tmp_path, nobody):
    write_netrc(tmp_path, "wandb.example.org")
    assert not has_key()
    nobody.setenv("WANDB_BASE_URL", "https://wandb.example.org/")
    assert has_key()


@pytest.mark.parametrize("text", ["my notes\n", "machine api.wandb.ai login\n", ""])
def test_a_netrc_without_a_password_is_no_key(tmp_path, nobody, text):
    (tmp_path / "netrc").write_text(text)
    assert not has_key()


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_a_mode_of_the_environment_is_left_as_it_is(tmp_path, init, nobody, mode):
    nobody.setenv("WANDB_MODE", mode)
    nobody.setenv("WANDB_API_KEY", "k" * 40)
    start(tmp_path)
    assert init[0][1] == mode


def test_online_without_a_key_is_an_error_and_not_a_question(tmp_path, init, nobody):
    nobody.setenv("WANDB_MODE", "online")
    with pytest.raises(
        ValueError, match="WANDB_MODE=online but there is no key: set WANDB_API_KEY"
    ):
        start(tmp_path)
    assert init == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning:wandb")
def test_an_offline_run_is_written_without_a_question(tmp_path, nobody):
    nobody.setenv("WANDB_MODE", "offline")
    logger = wandb_logger("project", "run", str(tmp_path))
    try:
        logger.log_metrics({"train/loss": 1.0}, step=0)
    finally:
        wandb.finish()  # not teardown: no run of this process could start after it
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
