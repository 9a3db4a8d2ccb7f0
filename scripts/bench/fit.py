"""What `fit` gives: images/s of recipes, in processes by turns, and where a step's time goes.

    python -m scripts.bench.fit vit_b_dense,vit_b_24_fast --batch 256 --json fit.json
    python -m scripts.bench.fit vit_b_dense,vit_b_24_fast data=parquet data.root=… data.cache=gpu

Trains so many steps of each recipe as `python -m sparsetrain fit` does, callbacks and logging
included; dense warm-up and tail are off. Images/s are of the steps between two logs, the median of
those after the first in which nothing was traced. × is over the first recipe. In the last round
some steps are traced: how much of their time the GPU worked, and the kernels that take the most;
and the main thread's Python is profiled, into RECIPE.txt beside the JSON; nothing is traced where
there is no GPU. What `fit` says goes to RECIPE.log, also of a run that is cut. Further words go to
`fit`.
"""

from __future__ import annotations

import argparse
import cProfile
import csv
import io
import json
import pstats
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from sparsetrain.bench.gpu_trace import profile_of
from sparsetrain.lightning.flavour import Callback, pl

EVERY = 50
"""Optimizer steps between two logs, as in the recipes."""

RATE = "perf/images_per_s"

TRACED = range(130, 140)
"""The steps whose kernels are traced."""

PROFILED = range(160, 190)
"""The steps whose Python is profiled."""

UNDISTURBED = (1, 4, 5)
"""The logs of steps after the first in which there is neither."""


class Trace(Callback):
    """Trace the GPU in the steps TRACED and Python in PROFILED; `file` gets where time went."""

    def __init__(self, file: str) -> None:
        self.file, self.profiler, self.python = file, None, cProfile.Profile()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == TRACED.start:
            torch.cuda.synchronize()
            self.profiler: Any = torch.profiler.profile(
                activities=[torch.profiler.ProfilerActivity.CUDA]
            )
            self.profiler.start()
        elif trainer.global_step == TRACED.stop and self.profiler is not None:
            torch.cuda.synchronize()
            self.profiler.stop()
            Path(self.file).write_text(json.dumps(summary(self.profiler.events())))
            self.profiler = None
        elif trainer.global_step == PROFILED.start:
            self.python.enable()
        elif trainer.global_step == PROFILED.stop:
            self.python.disable()
            text = io.StringIO()
            pstats.Stats(self.python, stream=text).sort_stats("tottime").print_stats(40)
            Path(self.file).with_suffix(".txt").write_text(text.getvalue())


def summary(events: Iterable[Any]) -> dict[str, Any]:
    """Milliseconds a step: from the first kernel to the last, in which any kernel ran, and of each
    of the longest kernels."""
    profile = profile_of(events, len(TRACED))
    kernels = {kernel.name: kernel.ms for kernel in profile.kernels[:25]}
    return {"ms": profile.span, "busy_ms": profile.busy, "kernels": kernels}


def main() -> None:
    parser = argparse.ArgumentParser(description="Times `fit`.")
    parser.add_argument("recipes", help="names, with commas between them")
    parser.add_argument("words", nargs="*", help="of fit")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_intermixed_args()
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
    last = args.rounds - 1 if torch.cuda.is_available() else None
    recipes = args.recipes.split(",")
    runs: dict[str, list[float]] = {recipe: [] for recipe in recipes}
    traces: dict[str, Any] = {}
    for number in range(args.rounds):
        for recipe in recipes:
            rates, trace = measure(recipe, args, traced=number == last)
            runs[recipe] += rates
            traces[recipe] = trace
    rows = []
    for recipe in recipes:
        rate = statistics.median(runs[recipe])
        over = rate / statistics.median(runs[recipes[0]])
        row = {"recipe": recipe, "images_per_s": rate, "over_first": over}
        rows.append({**row, "all": runs[recipe], "trace": traces[recipe]})
        print(f"{recipe:20} {rate:8,.0f} images/s  {over:.3f}x")
        if traces[recipe]:
            print("   one step: {ms:.1f} ms, kernels in {busy_ms:.1f}".format_map(traces[recipe]))
    if args.json:
        args.json.write_text(json.dumps({"batch": args.batch, "words": args.words, "rows": rows}))


def measure(recipe: str, args: argparse.Namespace, traced: bool) -> tuple[list[float], Any]:
    """Train one recipe. Returns images/s between its logs, and the trace if `traced`, else None."""
    with tempfile.TemporaryDirectory() as folder:
        words = [
            f"recipe={recipe}",
            "data=synthetic",
            f"data.batch_size={args.batch}",
            f"trainer.max_steps={args.steps}",
            f"trainer.log_every_n_steps={EVERY}",
            "trainer.limit_val_batches=0",
            "logger=csv",
            f"hydra.run.dir={folder}",
        ]
        if "dense" not in recipe and "sparsity=dense" not in args.words:
            words += ["sparsity.schedule.dense_warmup=0", "sparsity.schedule.dense_tail=0"]
        file = Path(folder) / "trace.json"
        if traced:
            words += [f"+callbacks.trace._target_={__spec__.name}.Trace"]  # pyright: ignore[reportOptionalMemberAccess]
            words += [f"+callbacks.trace.file={file}"]
        command = [sys.executable, "-m", "sparsetrain", "fit", *words, *args.words]
        log = (args.json.parent if args.json else Path(folder)) / f"{recipe}.log"
        with log.open("w") as said:
            status = subprocess.run(command, stdout=said, stderr=subprocess.STDOUT).returncode
        if status:
            whole = (
                f"all of it is in {log}" if args.json else "--json FILE keeps all of it beside FILE"
            )
            end = error_of(log.read_text())
            raise SystemExit(f"{recipe}: fit ended with {status}; {whole}; its log ends:\n{end}")
        rates = rates_of(Path(folder) / "metrics.csv")
        needed = max(UNDISTURBED) + 1 if traced else 2
        if len(rates) < needed:
            raise SystemExit(
                f"{recipe}: fit logged {len(rates)} times and {needed} are needed: give --steps of "
                f"{needed * EVERY} or more, and trainer.max_epochs= where the data set is small"
            )
        if not traced:
            return rates[1:], None
        if args.json:
            shutil.copy(file.with_suffix(".txt"), args.json.parent / f"{recipe}.txt")
        return [rates[log] for log in UNDISTURBED], json.loads(file.read_text())


def error_of(log: str) -> str:
    """The error that a log ends with, without its traceback; without one the last three lines."""
    hint = "Set the environment variable HYDRA_FULL_ERROR"
    lines = [line for line in log.splitlines() if line.strip() and not line.startswith(hint)]
    starts = [number for number, line in enumerate(lines) if line.startswith("Traceback (")]
    if not starts:
        return "\n".join(lines[-3:])
    return "\n".join(line for line in lines[starts[-1] + 1 :] if not line.startswith(" "))


def rates_of(metrics: Path) -> list[float]:
    """Images/s of each log; none where nothing was logged."""
    if not metrics.exists():
        return []
    with metrics.open() as rows:
        return [float(row[RATE]) for row in csv.DictReader(rows) if row.get(RATE)]


if __name__ == "__main__":
    main()
