"""What 2:4 pruning costs without retraining, and what the best of it costs after.

    python -m scripts.prune_table runs/dense-*/checkpoints/last.ckpt \\
        --json prune.json

Each checkpoint of `fit` is dense, of a seed of its own. Its linear layers in
blocks are pruned by each method with masks of rows and exact ones, each as it
is, permuted before, fitted after, and both, and read all validation images. Of
the exact masks the way that loses least on training images (not those of
calibration) is retrained under its masks.

Checkpoints are worked on side by side. What --folder holds already is not done
again.
"""

from __future__ import annotations

import argparse
import datetime
import multiprocessing
import platform
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from scripts.prune_table.retrain import retrained
from scripts.prune_table.table import table
from scripts.prune_table.variants import INCLUDE, Row, Variant, rows_of
from sparsetrain.bench.environment import commit
from sparsetrain.bench.json_file import write_json
from sparsetrain.cores import cores

RETRAINED = "exact"


def main() -> None:
    args = parse()
    jobs = args.jobs or (len(args.checkpoints) if torch.cuda.is_available() else 1)
    folders = [args.folder / str(number) for number in range(len(args.checkpoints))]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        roots = [args.root] * len(folders)
        include = [tuple(args.include)] * len(folders)
        rows = [
            row
            for part in pool.map(rows_of, args.checkpoints, folders, roots, include)
            for row in part
        ]
        say(rows, args)  # retraining takes longer, and may be cut
        best = best_of(rows)
        if args.retrain > 0:
            each = [
                (c, f, best, args.retrain, args.lr)
                for c, f in zip(args.checkpoints, folders, strict=True)
            ]
            rows += list(pool.map(retrained, *zip(*each, strict=True), roots, include))
            say(rows, args)


def say(rows: list[Row], args: argparse.Namespace) -> None:
    print(table(rows), flush=True)
    if args.json:
        write_json(args.json, {"about": about(), "include": args.include, "rows": rows})


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="prune_table",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoints", nargs="+", type=Path, help="dense ones that `fit` wrote")
    parser.add_argument("--folder", type=Path, default=Path("runs/prune_table"))
    parser.add_argument("--root", help="folder of the data, instead of the checkpoints' own")
    parser.add_argument("--include", nargs="+", default=list(INCLUDE), help="globs of layers")
    parser.add_argument(
        "--retrain", type=float, default=0.1, help="share of the dense run's epochs; 0: none"
    )
    parser.add_argument("--lr", type=float, default=0.3, help="share of the dense run's peak rate")
    parser.add_argument("--jobs", type=int, help="checkpoints at a time: all on a GPU, else one")
    parser.add_argument("--json", type=Path, help="file for every number")
    return parser.parse_args()


def best_of(rows: Sequence[Row]) -> Variant:
    """The variant with exact masks that has the lowest loss on training images."""
    losses: dict[Variant, list[float]] = {}
    for row in rows:
        if row["variant"] is not None and row["variant"]["masks"] == RETRAINED:
            losses.setdefault(Variant(**row["variant"]), []).append(row["train_loss"])
    return min(losses, key=lambda variant: statistics.fmean(losses[variant]))


def about() -> dict[str, str]:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return {
        "command": " ".join(["python -m scripts.prune_table", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "hardware": gpu or f"{cores()} CPU cores",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": commit(Path(__file__).parents[2]),
    }


if __name__ == "__main__":
    main()
