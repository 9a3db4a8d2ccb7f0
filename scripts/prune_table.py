"""Prune a small ViT trained on digits by every method, 2:4, and print what top-1 it costs.

    python scripts/prune_table.py --json docs/results/prune-digits.json

Trains a dense model for each seed (vit_tiny_24 with sparsity=dense), prunes all linear layers of
its blocks by each method and selection, with and without refitting or a permutation before, and
retrains those that had neither and are 2:4 in both orientations (vit_tiny_retrain24). What --folder
holds already is not done again.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import io
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from hydra.utils import instantiate

from sparsetrain.bench.environment import commit
from sparsetrain.cli.load import load_trained
from sparsetrain.cli.prune import prune_checkpoint

METHODS = ("magnitude", "wanda", "sparsegpt")
SELECTIONS = ("row", "exact")
INCLUDE = "include=['*blocks*']"
RETRAINED = "exact"
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/prune_table"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=20, help="of retraining; 0 leaves it out")
    parser.add_argument("--json", type=Path, help="file for every number")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for seed in args.seeds:
        dense = train(args.folder / f"dense-{seed}", seed, "recipe=vit_tiny_24", "sparsity=dense")
        base = evaluated(dense)
        rows.append({"seed": seed, "method": "dense", **base})
        for method, selection, refit in product(METHODS, SELECTIONS, (False, True)):
            file = pruned(dense, args.folder, seed, method, selection, refit)
            row = {"seed": seed, "method": method, "selection": selection, "refit": refit}
            row |= evaluated(file)
            if not refit:
                words = ("permute=true",)
                row["permuted"] = evaluated(
                    pruned(dense, args.folder, seed, method, selection, refit, *words)
                )
            if selection == RETRAINED and not refit and args.epochs:
                row["retrained"] = evaluated(retrained(file, args.epochs, seed))
            rows.append(row)
            print(json.dumps(row), flush=True)
    print(table(rows))
    if args.json:
        head = {
            "command": " ".join(["python", *sys.argv]),
            "date": datetime.date.today().isoformat(),
            "hardware": torch.cuda.get_device_name()
            if torch.cuda.is_available()
            else f"{os.cpu_count()} CPU cores",
            "torch": torch.__version__,
            "commit": commit(Path(__file__).parents[1]),
        }
        args.json.write_text(json.dumps({**head, "epochs": args.epochs, "rows": rows}, indent=1))


def train(folder: Path, seed: int, *words: str) -> Path:
    """`fit` into a folder, unless it is done; returns the checkpoint of its end."""
    last = folder / "checkpoints" / "last.ckpt"
    if not (folder / "done").exists():
        command = [sys.executable, "-m", "sparsetrain", "fit", *words, f"seed={seed}"]
        command += [f"hydra.run.dir={folder}", "callbacks.progress=null"]
        env = {**os.environ, "WANDB_MODE": "offline"}
        subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL)
        (folder / "done").touch()
    return last


def pruned(
    dense: Path, folder: Path, seed: int, method: str, selection: str, refit: bool, *more: str
) -> Path:
    """The pruned checkpoint of a dense one. more: further words of `prune`."""
    kind = "-refit" * refit + "-permuted" * bool(more)
    out = folder / f"{method}-{selection}{kind}-{seed}.ckpt"
    if not out.exists():
        words = [f"checkpoint={dense}", f"method={method}", f"selection={selection}", INCLUDE]
        words += [f"out={out}", *(["refit=true"] if refit else []), *more]
        with contextlib.redirect_stdout(io.StringIO()):
            prune_checkpoint(words)
    return out


def retrained(file: Path, epochs: int, seed: int) -> Path:
    """The end of retraining under the masks of a pruned checkpoint."""
    words = ["recipe=vit_tiny_retrain24", f"checkpoint={file}", f"trainer.max_epochs={epochs}"]
    solver = f"sparsity.selection.solver={RETRAINED}"
    return train(file.with_suffix(""), seed, *words, f"sparsity.{INCLUDE}", solver)


@torch.no_grad()
def evaluated(file: Path) -> Row:
    """Top-1 in percent and loss of a checkpoint on the validation images."""
    trained = load_trained(str(file))
    data = instantiate(trained.config.data, _convert_="all")
    data.setup("validate")
    parts = [(trained.network(images), labels) for images, labels in data.val_dataloader()]
    logits, labels = (torch.cat(part) for part in zip(*parts, strict=True))
    right = (logits.argmax(1) == labels).double().mean()
    return {"top1": 100 * float(right), "loss": float(F.cross_entropy(logits, labels))}


def table(rows: Sequence[Row]) -> str:
    """Markdown: differences to the dense model of the same seed, mean ± standard error."""
    dense = {row["seed"]: row for row in rows if row["method"] == "dense"}
    top1 = mean_and_error([row["top1"] for row in dense.values()]).lstrip("+")
    lines = [
        f"dense: top-1 {top1} %, loss {statistics.mean(r['loss'] for r in dense.values()):.3f}; "
        f"{len(dense)} seeds",
        "",
        "| method | masks | refit | Δ top-1 | Δ loss | permuted: Δ top-1 | retrained: Δ top-1 |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for kind in product(METHODS, SELECTIONS, (False, True)):
        mine = [r for r in rows if (r["method"], r.get("selection"), r.get("refit")) == kind]
        before = [dense[row["seed"]] for row in mine]
        lost, loss = (
            mean_and_error([r[key] - d[key] for r, d in zip(mine, before, strict=True)], digits)
            for key, digits in (("top1", 2), ("loss", 3))
        )
        permuted, again = (
            [r[key]["top1"] - d["top1"] for r, d in zip(mine, before, strict=True) if key in r]
            for key in ("permuted", "retrained")
        )
        method, selection, refit = kind
        cells = (
            method, selection, "yes" if refit else "", lost, loss,
            *(mean_and_error(each) if each else "–" for each in (permuted, again)),
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def mean_and_error(values: Sequence[float], digits: int = 2) -> str:
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:+.{digits}f}"
    error = statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:+.{digits}f} ± {error:.{digits}f}"


if __name__ == "__main__":
    main()
