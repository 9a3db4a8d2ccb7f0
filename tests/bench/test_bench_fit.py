"""scripts/bench/fit says in one line why there is no rate."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from scripts.bench import fit

LOG = """Error executing job with overrides: ['recipe=vit_b_dense']
Traceback (most recent call last):
  File "sparsetrain/cli/fit.py", line 103, in fit
    trainer.fit(module)
RuntimeError: CUDA error: out of memory
Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.

Set the environment variable HYDRA_FULL_ERROR=1 for a complete stack trace.
"""
ERROR = """RuntimeError: CUDA error: out of memory
Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions."""


def ended(
    monkeypatch, *words: str, status: int = 0, log: str = "", rates: int | None = None
) -> str:
    """What the command ends with where `fit` left this log, so many rates and this status."""

    def run(command: Any, stdout: Any, **options: Any) -> Any:
        stdout.write(log)
        if rates is not None:
            folder = next(w for w in command if w.startswith("hydra.run.dir=")).partition("=")[2]
            lines = ["step,perf/images_per_s", "0,", *(f"{n},100.0" for n in range(rates))]
            (fit.Path(folder) / "metrics.csv").write_text("\n".join(lines))
        return SimpleNamespace(returncode=status)

    monkeypatch.setattr(fit.subprocess, "run", run)
    monkeypatch.setattr(fit.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["fit", "vit_b_dense", "--rounds", "1", *words])
    with pytest.raises(SystemExit) as end:
        fit.main()
    return str(end.value)


def test_a_fit_that_fails_is_one_line_and_the_error_that_its_log_ends_with(monkeypatch, tmp_path):
    said = ended(monkeypatch, status=1, log=LOG)
    first = "vit_b_dense: fit ended with 1; --json FILE keeps all of it beside FILE; its log ends:"
    assert said == f"{first}\n{ERROR}"
    file = tmp_path / "new" / "fit.json"
    said = ended(monkeypatch, "--json", str(file), status=-9, log="one\n\ntwo\nthree\nfour\n")
    kept = file.with_name("vit_b_dense.log")
    first = f"vit_b_dense: fit ended with -9; all of it is in {kept}; its log ends:"
    assert said == f"{first}\ntwo\nthree\nfour"
    assert kept.read_text().startswith("one")


@pytest.mark.parametrize("rates", [None, 0, 1])
def test_a_fit_that_logs_too_little_is_told_how_many_steps_it_takes(monkeypatch, rates):
    said = ended(monkeypatch, "--steps", "60", rates=rates)
    assert said.startswith(
        f"vit_b_dense: fit logged {rates or 0} times and 2 are needed: give --ste"
    )
    assert "--steps of 100 or more" in said
