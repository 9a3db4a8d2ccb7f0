"""scripts/bench/host times the host's part of a step of `fit` on a CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils.cpp_extension import is_ninja_available

ROOT = Path(__file__).resolve().parents[2]


def host(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scripts.bench.host", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("ddp",), "ddp wants two processes: torchrun --nproc-per-node 2 -m scripts.bench.host"),
        (("one", "--steps", "10"), "--steps 10: the first 40 are not timed; give 42 or more"),
    ],
)
def test_what_cannot_be_timed_is_one_line(words, said):
    ended = host(*words)
    assert ended.returncode == 2
    assert said in ended.stderr.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.skipif(not is_ninja_available(), reason="ninja is not installed")
@pytest.mark.parametrize("mode", ["one", "fsdp2"])
def test_steps_are_timed_and_profiled(mode, tmp_path):
    row, profile = tmp_path / "row.json", tmp_path / "profile.txt"
    ended = host(mode, "--steps", 44, "--json", row, "--profile", profile)
    assert ended.returncode == 0, ended.stderr[-2000:]
    found = json.loads(row.read_text())
    assert (found["mode"], found["steps"]) == (mode, 3)
    assert 0 < found["min_ms"] <= found["median_ms"]
    assert "run_backward" in profile.read_text()
