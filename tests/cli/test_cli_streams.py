"""Output that nobody reads any more."""

import errno
import os
import subprocess
import sys

import pytest
from cli_helpers import LIGHT, TINY, environment

from sparsetrain.cli.console import relative
from sparsetrain.cli.streams import lasting_streams


def test_what_nobody_reads_goes_nowhere(monkeypatch):
    reader, writer = os.pipe()
    monkeypatch.setattr(sys, "stdout", os.fdopen(writer, "w"))
    monkeypatch.setattr(sys, "stderr", None)  # as Python has it where it was closed before
    with lasting_streams():
        print("read", flush=True)
        assert os.read(reader, 100) == b"read\n"
        os.close(reader)
        for _ in range(2):
            print("lost", flush=True)
        print("lost", file=sys.stderr, flush=True)
        assert sys.stdout.fileno() == writer
    assert sys.stderr is None
    sys.stdout.close()


def test_a_full_disk_is_no_reader_that_is_gone(monkeypatch):
    monkeypatch.setattr(sys, "stdout", open("/dev/full", "w"))  # noqa: SIM115
    with lasting_streams(), pytest.raises(OSError, match="No space left") as full:
        print("lost", flush=True)
    assert full.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match="No space left"):
        sys.stdout.close()


def test_a_path_is_shown_from_a_folder_that_was_removed(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert relative(tmp_path / "here" / "x").name == str(relative(tmp_path / "here" / "x"))
    (tmp_path / "here").rmdir()
    assert relative(tmp_path / "x") == tmp_path / "x"


@pytest.mark.slow
def test_a_run_goes_on_where_its_output_is_cut_off(tmp_path):
    words = ("fit", *TINY, *LIGHT, f"hydra.run.dir={tmp_path}/run")
    run = subprocess.Popen(
        [sys.executable, "-m", "sparsetrain", *words],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None
    assert run.stderr is not None
    run.stdout.readline()
    run.stdout.close()
    assert run.wait(90) == 0
    with run.stderr as said:
        assert said.read() == ""
    assert (tmp_path / "run" / "report.html").is_file()
