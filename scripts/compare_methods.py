"""Train one small ViT with every method on CIFAR-10 and collect the accuracies
in a JSON file.

    python scripts/compare_methods.py --root DATA \\
        --out docs/results/methods-cifar10.json

DATA holds cifar10-{train,test}.parquet (Hugging Face image layout). Runs are
spread over the CUDA devices, `--jobs` at a time; without a device they run on
the CPU.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from sparsetrain.cores import thread_limits

MODEL = [
    "model.img_size=32",
    "model.options.patch_size=4",
    "model.options.embed_dim=128",
    "model.options.depth=6",
    "model.options.num_heads=4",
    "optimizer.lr=2e-3",
]
DATA = ["data=parquet", "data.batch_size=512", "data.augment.scale=[0.4,1.0]"]
NO_TAIL = "sparsity.schedule.dense_tail=0 sparsity.schedule.dense_warmup=0.05"

METHODS = {
    "dense, GELU": "sparsity=dense",
    "dense, squared ReLU": "sparsity=act24 sparsity.schedule.dense_warmup=1",
    "weights: STE": "sparsity=ste24",
    "weights: SR-STE": "sparsity=weights24 sparsity.schedule.dense_tail=0",
    "weights: SR-STE, last 1/6 dense": "sparsity=weights24 sparsity.schedule.dense_tail=0.1667",
    "weights: SR-STE, row masks": (
        "sparsity=weights24 sparsity.schedule.dense_tail=0 sparsity.selection.solver=row"
    ),
    "weights: S-STE": "sparsity=s_ste24",
    "activations: exact": f"sparsity=act24 {NO_TAIL}",
    "activations: row": f"sparsity=act24 {NO_TAIL} sparsity.activation.selection.solver=row",
    "all six products: exact": f"sparsity=all24 {NO_TAIL}",
    "all six products: row activations": (
        f"sparsity=all24 {NO_TAIL} sparsity.activation.selection.solver=row"
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", required=True, help="folder of the Parquet files")
    parser.add_argument("--out", required=True, type=Path, help="JSON file to write")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time on each device")
    parser.add_argument("--workers", type=int, default=4, help="data loading processes a run")
    parser.add_argument("--only", default="", help="a part of the names of the methods to run")
    args = parser.parse_args()

    devices = max(1, torch.cuda.device_count())
    jobs = [(name, seed) for name in METHODS if args.only in name for seed in range(args.seeds)]
    # The slowest methods stand last in the table and start first.
    jobs.reverse()
    results = []
    with ThreadPoolExecutor(devices * args.jobs) as pool:
        futures = [
            pool.submit(run, name, seed, number % devices, args)
            for number, (name, seed) in enumerate(jobs)
        ]
        for future in as_completed(futures):
            results.append(future.result())
            write(results, args)


def write(results: list[dict[str, Any]], args: argparse.Namespace) -> None:
    """The results so far as JSON, and on the screen."""
    table = {}
    for name in METHODS:
        top1 = [r["top1"] for r in results if r["method"] == name]
        if top1:
            table[name] = {"mean": round(sum(top1) / len(top1), 4), "top1": top1}
    about = {
        "command": "python " + " ".join(sys.argv),
        "hardware": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
        "epochs": args.epochs,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"about": about, "methods": table, "runs": results}, indent=1))


def run(name: str, seed: int, device: int, args: argparse.Namespace) -> dict[str, Any]:
    """One training run in a process of its own; its last validation accuracy."""
    folder = Path("runs/compare") / f"{list(METHODS).index(name)}-{seed}"
    command = [sys.executable, "-m", "sparsetrain", "fit", "recipe=vit_tiny_24", "logger=csv"]
    command += [*MODEL, *DATA, f"data.root={args.root}", f"data.num_workers={args.workers}"]
    command += [f"seed={seed}", f"trainer.max_epochs={args.epochs}", f"hydra.run.dir={folder}"]
    command += ["trainer.precision=bf16-mixed", "trainer.log_every_n_steps=50"]
    command += ["trainer.check_val_every_n_epoch=4", *METHODS[name].split()]
    limits = thread_limits(max(1, torch.cuda.device_count()) * args.jobs)
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": str(device), **limits}
    start = time.time()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name}, seed {seed}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    with (folder / "metrics.csv").open() as file:
        top1 = [float(row["val/top1"]) for row in csv.DictReader(file) if row["val/top1"]]
    print(f"{name}, seed {seed}: {100 * top1[-1]:.2f}  {time.time() - start:.0f} s", flush=True)
    return {"method": name, "seed": seed, "top1": round(top1[-1], 4), "overrides": METHODS[name]}


if __name__ == "__main__":
    main()
