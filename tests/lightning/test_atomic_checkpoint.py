"""Checkpoints are whole or absent, and say what is wrong with what is neither."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sparsetrain
from sparsetrain.lightning import AtomicCheckpointIO, read_checkpoint

# Stops for good after the bytes of the first tensor.
WRITER = """
import sys, time
import torch
from sparsetrain.lightning import AtomicCheckpointIO

io = AtomicCheckpointIO()
io.save_checkpoint({"state_dict": {"w": torch.zeros(4)}}, sys.argv[1])
save = torch.save

def stop_in_the_middle(checkpoint, file):
    class Stopping:
        def write(self, data):
            written = file.write(data)
            if len(data) > 1 << 16:
                file.flush()
                print("writing", flush=True)
                time.sleep(60)
            return written

        def flush(self):
            file.flush()

    save(checkpoint, Stopping())

torch.save = stop_in_the_middle
io.save_checkpoint({"state_dict": {"w": torch.ones(1 << 18), "v": torch.ones(4)}}, sys.argv[1])
"""


@pytest.fixture
def checkpoint():
    return {"state_dict": {"w": torch.zeros(4)}}


@pytest.mark.slow
def test_a_writer_killed_in_the_middle_leaves_the_old_file_and_the_next_one_cleans_up(tmp_path):
    path = tmp_path / "last.ckpt"
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(sparsetrain.__file__).parents[1],
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert sorted(os.listdir(tmp_path)) == [".last.ckpt.unfinished", "last.ckpt"]
    assert torch.equal(read_checkpoint(path)["state_dict"]["w"], torch.zeros(4))
    AtomicCheckpointIO().save_checkpoint({"state_dict": {"w": torch.ones(4)}}, path)
    assert os.listdir(tmp_path) == ["last.ckpt"]
    assert torch.equal(read_checkpoint(path)["state_dict"]["w"], torch.ones(4))


def test_a_failing_write_leaves_the_old_file_alone(tmp_path, checkpoint):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(checkpoint, path)
    with pytest.raises((AttributeError, TypeError), match=r"pickle"):
        AtomicCheckpointIO().save_checkpoint({"state_dict": {}, "f": lambda: 0}, path)
    assert os.listdir(tmp_path) == ["last.ckpt"]
    assert torch.equal(read_checkpoint(path)["state_dict"]["w"], torch.zeros(4))


def test_folders_are_made(tmp_path, checkpoint):
    path = tmp_path / "new" / "folder" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(checkpoint, path)
    assert torch.equal(read_checkpoint(path)["state_dict"]["w"], torch.zeros(4))


def test_storage_options_are_refused_because_there_are_none(tmp_path, checkpoint):
    with pytest.raises(ValueError, match="storage_options"):
        AtomicCheckpointIO().save_checkpoint(checkpoint, tmp_path / "a.ckpt", {"speed": 1})


def test_a_missing_checkpoint_names_its_neighbours_nearest_first(tmp_path, checkpoint):
    for name in ("epoch=9.ckpt", "last.ckpt", "best.ckpt"):
        AtomicCheckpointIO().save_checkpoint(checkpoint, tmp_path / name)
    with pytest.raises(
        FileNotFoundError, match=r"lasst\.ckpt does not exist; found: \S*last\.ckpt"
    ):
        read_checkpoint(tmp_path / "lasst.ckpt")


def test_a_missing_checkpoint_in_an_empty_place_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no \.ckpt file there or under runs/"):
        read_checkpoint("last.ckpt")


def test_a_truncated_checkpoint_cannot_be_read(tmp_path, checkpoint):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(checkpoint, path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"checkpoint=\S*last\.ckpt cannot be read"):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [b"", b"some words", b"\x80\x02}q\x00.", b"PK\x03\x04 zip"])
def test_a_file_that_is_no_checkpoint_cannot_be_read(tmp_path, content):
    path = tmp_path / "notes.ckpt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"checkpoint=\S*notes\.ckpt "):
        read_checkpoint(path)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Touch:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    path = tmp_path / "bad.ckpt"
    torch.save({"state_dict": {}, "x": Touch()}, path)
    with pytest.raises(ValueError, match="cannot be read"):
        read_checkpoint(path)
    assert not (tmp_path / "ran").exists()


def test_tensors_without_a_training_state_are_no_training_checkpoint(tmp_path):
    torch.save({"w": torch.zeros(1)}, tmp_path / "weights.ckpt")
    with pytest.raises(ValueError, match="no state_dict: it is no training checkpoint"):
        read_checkpoint(tmp_path / "weights.ckpt")
