"""Runs side by side: so many processes on each GPU, within a budget of seconds."""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import rows
from plan import ROOT, Run, key_of
from rows import Row

sys.path.insert(0, str(ROOT))

from sparsetrain.cores import thread_limits

TAIL = 3000
"""Characters of a failed run's output that are printed."""

START_SECONDS, SAVE_SECONDS = 90.0, 30.0
"""Before the end of the budget no run is started that late; what runs has that long to save."""


@dataclass
class Job:
    run: Run
    slot: int
    process: subprocess.Popen[str]
    folder: Path


def launch(planned: Sequence[Run], done: list[Row], file: Path, args: argparse.Namespace) -> int:
    """Train what has no row yet and write rows to `file`. Returns the exit status."""
    left = [row for run in planned if (row := left_row(folder_of(run, args))) is not None]
    finished = {key_of(row) for row in done}
    left = [row for row in left if key_of(row) not in finished]
    rows.write(file, [*rows.read(file), *left])  # of a call before, whose rows went elsewhere
    done, finished = [*done, *left], finished | {key_of(row) for row in left}
    waiting = [run for run in planned if run.key not in finished]
    print(f"{len(planned) - len(waiting)} of {len(planned)} runs are done", flush=True)
    gpus = args.gpus or count_gpus()
    free = [gpu for _ in range(args.jobs) for gpu in range(gpus)]
    start, running, failed = time.monotonic(), [], 0
    budget = math.inf if args.budget_seconds is None else args.budget_seconds
    try:
        while (waiting or running) and (spent := time.monotonic() - start) < budget:
            while waiting and free and spent + START_SECONDS < budget:
                running.append(begin(waiting.pop(0), free.pop(0), args, gpus))
            if not running:
                break
            time.sleep(0.5)
            for job in [job for job in running if job.process.poll() is not None]:
                running.remove(job)
                free.append(job.slot)
                row = result(job)
                if row is None:
                    failed += 1
                    continue
                rows.write(file, [*rows.read(file), row])
                tell(row, time.monotonic() - start)
    finally:  # also where this process is told to end
        end(running)
    if waiting or running:
        left = f"{len(running)} runs stopped, {len(waiting)} not started"
        print(f"{left}: go on with the same command", flush=True)
    if failed:
        print(f"{failed} runs failed", flush=True)
    return 1 if failed else 0


def folder_of(run: Run, args: argparse.Namespace) -> Path:
    return Path(args.runs).resolve() / run.name


def left_row(folder: Path) -> Row | None:
    """The row that a run left in its folder."""
    path = folder / "row.json"
    return json.loads(path.read_text()) if path.is_file() else None


def end(running: Sequence[Job]) -> None:
    """Let runs save where they are, and end."""
    for job in running:
        job.process.terminate()
    late = time.monotonic() + SAVE_SECONDS
    for job in running:
        try:
            job.process.wait(max(0.0, late - time.monotonic()))
        except subprocess.TimeoutExpired:
            job.process.kill()


def begin(run: Run, gpu: int, args: argparse.Namespace, gpus: int) -> Job:
    folder = folder_of(run, args)
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        str(Path(__file__).parent),
        "one",
        json.dumps(asdict(run)),
        str(folder),
    ]
    if args.commit:
        command += ["--commit", args.commit]
    limits = thread_limits(gpus * args.jobs)
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": visible(gpu), **limits}
    with (folder / "output.log").open("w") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=subprocess.STDOUT, text=True
        )
    return Job(run, gpu, process, folder)


def visible(gpu: int) -> str:
    """What CUDA_VISIBLE_DEVICES calls the GPU of that number, so that a study stays on its own."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return str(gpu) if given is None else given.split(",")[gpu]


def result(job: Job) -> Row | None:
    """The row of a run that ended; None, with the end of what it printed, where it failed."""
    row = left_row(job.folder)
    if job.process.returncode == 0 and row is not None:
        return row
    output = (job.folder / "output.log").read_text()[-TAIL:]
    print(f"{job.run.name} failed ({job.process.returncode}):\n{output}", flush=True)
    return None


def tell(row: Row, spent: float) -> None:
    top1 = row["top1_val"] if row["choose"] else row["top1"]
    sparse = f", sparse {row['top1_sparse']:.2f}" if row["top1_sparse"] is not None else ""
    print(
        f"{spent:6.0f} s  {row['variant']} seed {row['seed']}: {top1:.2f}{sparse}  "
        f"{row['seconds']:.0f} s, {row['images_per_s']:,.0f} images/s",
        flush=True,
    )


def count_gpus() -> int:
    """GPUs of this machine; 1 where there is none, for runs on the CPU."""
    import torch

    return max(1, torch.cuda.device_count())
