"""scripts/bench as commands, in processes of their own."""

import contextlib
import runpy
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


HELPFUL = [
    "scripts/study",
    "scripts/prune_table",
    *(
        str(path.relative_to(ROOT))
        for path in sorted(
            [*(ROOT / "scripts").glob("*.py"), *(ROOT / "scripts/bench").glob("*.py")]
        )
        if '__name__ == "__main__"' in path.read_text("utf-8")
    ),
]
"""All that is run as a command."""


@pytest.mark.parametrize("script", HELPFUL)
def test_help_fits_a_terminal_of_80_columns(script, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    monkeypatch.setattr(sys, "path", [str((ROOT / script).parent), *sys.path])
    with contextlib.suppress(SystemExit):
        runpy.run_path(str(ROOT / script), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 3
    assert [line for line in lines if len(line) > 80] == []


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
