"""The best way to prune, as the commands do it: `prune`, then `fit` under its masks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from scripts.prune_table.variants import Row, Variant, evaluated, open_checkpoint
from sparsetrain.cli.load import load_trained
from sparsetrain.cli.overrides import split_word
from sparsetrain.cores import thread_limits
from sparsetrain.lightning import read_checkpoint

_REPLACED = (
    "trainer.max_epochs", "trainer.check_val_every_n_epoch", "optimizer.lr",
    "optimizer.warmup_epochs", "callbacks.last.every_n_epochs", "callbacks.progress", "logger",
)  # fmt: skip
"""Words of the dense run that a retraining sets itself."""


def retrained(
    checkpoint: Path,
    folder: Path,
    variant: Variant,
    share: float,
    lr: float,
    root: str | None,
    include: Sequence[str],
) -> Row:
    """The row of a checkpoint that was pruned and retrained; that of folder/retrained.json, if it
    is of the same. share, lr: of the dense run's epochs and peak learning rate."""
    file, asked = folder / "retrained.json", {**asdict(variant), "share": share, "lr": lr}
    row: Row = json.loads(file.read_text()) if file.is_file() else {}
    if row.get("retrained") == asked:
        return row
    start = time.perf_counter()
    config = read_checkpoint(checkpoint)["sparsetrain_config"]["config"]
    epochs = max(1, round(share * config["trainer"]["max_epochs"]))
    out = folder / "pruned.ckpt"
    rate = {"trainer.max_epochs": epochs, "optimizer.lr": lr * config["optimizer"]["lr"]}
    command("prune", prune_words(checkpoint, out, variant, root, include))
    command("fit", fit_words(out, folder / "retrained", rate))
    network, data, seed = open_checkpoint(checkpoint, root)
    del network
    last = load_trained(str(folder / "retrained" / "checkpoints" / "last.ckpt")).network
    last.to(data.val[0][0].device)
    row = {"seed": seed, "variant": None, "retrained": asked, "epochs": epochs}
    row |= {**evaluated(last, data), "seconds": round(time.perf_counter() - start, 1)}
    file.write_text(json.dumps(row, indent=1))
    print(f"seed {seed} retrained: {row['top1']:.2f} %, {row['seconds']} s", flush=True)
    return row


def prune_words(
    checkpoint: Path, out: Path, variant: Variant, root: str | None, include: Sequence[str]
) -> list[str]:
    globs = ",".join(f"'{glob}'" for glob in include)
    words = [
        f"checkpoint={checkpoint}",
        f"method={variant.method}",
        f"selection={variant.masks}",
        f"permute={str(variant.permute).lower()}",
        f"refit={str(variant.fit).lower()}",
        f"include=[{globs}]",
        f"out={out}",
    ]
    reads = variant.fit or variant.method in ("wanda", "sparsegpt")
    return [*words, f"data.root={root}"] if root is not None and reads else words


def fit_words(pruned: Path, folder: Path, rate: dict[str, Any]) -> list[str]:
    """The words of the dense run, with the sparsity that `prune` wrote into the checkpoint."""
    words = read_checkpoint(pruned)["sparsetrain_config"]["overrides"]
    kept = [word for word in words if split_word(word)[0] not in _REPLACED]
    epochs = rate["trainer.max_epochs"]
    return [
        *kept,
        *(f"{key}={value}" for key, value in rate.items()),
        f"optimizer.warmup_epochs={epochs // 10}",
        f"trainer.check_val_every_n_epoch={epochs}",
        f"callbacks.last.every_n_epochs={epochs}",
        "callbacks.progress=null",
        "logger=csv",
        f"checkpoint={pruned}",
        f"hydra.run.dir={folder}",
    ]


def command(verb: str, words: list[str]) -> None:
    """Run a command of the package. Raises CalledProcessError with its output printed."""
    limits = thread_limits(max(1, torch.cuda.device_count() * 3))
    environment = {**os.environ, **limits, "WANDB_MODE": "offline"}
    done = subprocess.run(
        [sys.executable, "-m", "sparsetrain", verb, *words],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode:
        print(done.stdout[-3000:], flush=True)
        done.check_returncode()
