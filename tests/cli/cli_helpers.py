"""Calling the command line: in this process where that will do, else in one of its own."""

import contextlib
import csv
import io
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from hydra.core.global_hydra import GlobalHydra

from sparsetrain.cli.main import main

ROOT = Path(__file__).resolve().parents[2]

TINY = (
    "recipe=vit_tiny_24",
    "model.options.depth=2",
    "trainer.max_epochs=2",
    "optimizer.warmup_epochs=1",
    "trainer.limit_train_batches=4",
    "trainer.log_every_n_steps=1",
)
"""Eight optimizer steps in about a second."""

LIGHT = ("logger=csv", "trainer.limit_val_batches=1")
WHOLE = ("logger=wandb", "trainer.limit_val_batches=null")
"""What `fit` below leaves out, and the words that bring it back: W&B's files, which take half a
second, and all but the first of 6 batches to validate."""


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it printed."""

    status: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line of an error that is explained. Fails for anything else."""
        assert self.status != 0, self.out
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("sparsetrain: "), lines
        return lines[0].removeprefix("sparsetrain: ")


@dataclass(frozen=True)
class Run:
    """A run's folder, and how its command ended."""

    folder: Path
    ended: Ended

    @property
    def last(self) -> Path:
        return self.folder / "checkpoints" / "last.ckpt"


def call(*words: str) -> Ended:
    """Run a command in this process, and put back what it changes of it."""
    argv, handler = sys.argv, signal.getsignal(signal.SIGINT)
    precision, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["sparsetrain", *words]
    status = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as end:
        status = int(end.code or 0)
    finally:
        sys.argv = argv
        signal.signal(signal.SIGINT, handler)
        torch.set_float32_matmul_precision(precision)
        torch.set_num_threads(threads)
        GlobalHydra.instance().clear()
    return Ended(status, out.getvalue(), err.getvalue())


def fit(folder: Path, *words: str) -> Ended:
    """`fit` on the tiny model into a run folder, LIGHT; later words win."""
    return call("fit", *TINY, *LIGHT, f"hydra.run.dir={folder}", *words)


def environment() -> dict[str, str]:
    """For processes of their own: the checkout on the path, one thread."""
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def spawn(*arguments: str, cwd: Path, timeout: float = 200) -> Ended:
    """Run `python arguments…` and wait for it."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def metric(run: Path, key: str) -> dict[int, float]:
    """A column of a run's metrics.csv by optimizer step."""
    with (run / "metrics.csv").open() as file:
        return {int(row["step"]): float(row[key]) for row in csv.DictReader(file) if row.get(key)}


def shown(out: str, label: str) -> str:
    """The value beside a label of a printed summary."""
    (line,) = (line for line in out.splitlines() if line.startswith(label))
    return line.removeprefix(label).strip()
