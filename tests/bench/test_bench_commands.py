"""scripts/bench as commands, in processes of their own."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import runpy, sys
sys.modules |= {"hydra": None, "omegaconf": None, "pytorch_lightning": None}
sys.argv = ["bench", "round=3"]
runpy.run_module("scripts.bench.NAME", run_name="__main__")
"""


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["matmul", "mlp", "sparsify"])
def test_a_wrong_word_is_one_line_and_needs_neither_hydra_nor_lightning(name):
    result = run("-c", PROGRAM.replace("NAME", name))
    assert result.stderr.startswith("round= is no option of bench: did you mean rounds")
    assert len(result.stderr.splitlines()) == 1
    assert result.returncode == 1


@pytest.mark.slow
def test_help_is_the_heading_of_the_file():
    result = run("-m", "scripts.bench.matmul", "--help")
    assert "python -m scripts.bench.matmul random=200" in result.stdout
    assert result.returncode == 0
