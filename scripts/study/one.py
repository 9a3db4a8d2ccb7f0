"""One run of a study, in a process of its own: `fit`, the sparse accuracy, the row."""

from __future__ import annotations

import csv
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from plan import Run  # noqa: E402

import sparsetrain  # noqa: E402
from sparsetrain.cli.run import run_fit  # noqa: E402

GPU_WORDS = ("engine=native",)
"""So that the kernels are what is judged. A variant's words come after them."""


def train_one(run: Run, folder: Path, commit: str | None) -> None:
    """Train, or go on from the newest of folder/checkpoints, and write folder/row.json."""
    last = folder / "checkpoints" / "last.ckpt"
    newest = newest_of(last, last.with_name("interrupted.ckpt"))
    resumed = newest is not None
    words = fit_words(run, folder) + ([f"checkpoint={newest}"] if resumed else [])
    sys.argv = ["sparsetrain", "fit", *words]
    start = time.monotonic()
    if not (last.is_file() and is_finished(last, run.epochs)):
        run_fit(words)
    seconds = time.monotonic() - start
    config = saved_config(last)
    metrics = read_metrics(folder)
    top1 = 100 * metrics["val/top1"][-1]
    sparse = sparse_top1(last, config, top1)
    row = {
        "data": run.data,
        "recipe": run.recipe,
        "recipe_digest": run.recipe_digest,
        "variant": run.variant,
        "seed": run.seed,
        "epochs": run.epochs,
        "choose": run.choose,
        "words": list(run.words),
        "top1": None if run.choose else top1,
        "top1_val": top1 if run.choose else None,
        "top1_sparse": sparse,
        "train_loss": mean_of_last(metrics, "train/loss", 20),
        "val_loss": last_of(metrics, "val/loss"),
        "curve": [100 * value for value in metrics["val/top1"]],
        "curve_seconds": seconds_of_validations(folder),
        "seconds": round(seconds, 1),
        "resumed": resumed,
        "images_per_s": statistics.median(metrics.get("perf/images_per_s", [0.0])),
        "density": min(metrics.get("sparsity/density", [1.0])),  # a dense tail has 1
        "flip_rate": flip_rates(metrics),
        "kept_energy": last_of(metrics, "sparsity/kept_energy"),
        "commit": commit or git_commit(),
        "hardware": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "sparsetrain": sparsetrain.__version__,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "config": without_paths(flat(config)),
    }
    (folder / "row.json").write_text(json.dumps(row))


def fit_words(run: Run, folder: Path) -> list[str]:
    """The command line of a run; the variant's own words come last and win."""
    # A run that reads the test images reads them once, at the end.
    every = max(1, run.epochs // run.checks) if run.choose else run.epochs
    words = [
        f"recipe={run.recipe}",
        f"data.root={run.root}",
        f"data.val_fraction={0.1 if run.choose else 0.0}",
        f"seed={run.seed}",
        f"trainer.max_epochs={run.epochs}",
        f"trainer.check_val_every_n_epoch={every}",
        "trainer.devices=1",
        "logger=csv",
        "callbacks.checkpoint=null",
        "callbacks.masks=null",
        f"callbacks.last.every_n_epochs={max(1, run.epochs // 4)}",
        f"hydra.run.dir={folder}",
    ]
    on_gpu = GPU_WORDS if torch.cuda.is_available() else ()
    return [*words, *on_gpu, *run.words]


def is_finished(checkpoint: Path, epochs: int) -> bool:
    """Whether a checkpoint is of a run's last epoch."""
    from sparsetrain.lightning import read_checkpoint

    return read_checkpoint(checkpoint)["epoch"] + 1 >= epochs


def saved_config(checkpoint: Path) -> dict[str, Any]:
    from sparsetrain.lightning import read_checkpoint

    return read_checkpoint(checkpoint)["sparsetrain_config"]["config"]


def sparse_top1(checkpoint: Path, config: dict[str, Any], top1: float) -> float | None:
    """Top-1 of the last weights under their masks, per cent; None for a run never sparse."""
    sparsity = config["sparsity"]
    schedule = sparsity["schedule"]
    never = sparsity["weight"] is None and sparsity["activation"] is None
    if never or schedule.get("dense_warmup", 0) >= 1:
        return None
    if not schedule.get("dense_tail", 0):
        return top1  # it was validated sparse
    import pytorch_lightning as pl
    from hydra.utils import instantiate

    from sparsetrain.cli.fit import classifier
    from sparsetrain.cli.load import load_trained
    from sparsetrain.nn import set_sparse

    trained = load_trained(str(checkpoint))
    set_sparse(trained.network, True)
    data = instantiate(trained.config.data, _convert_="all")
    data.setup("validate")
    trainer = pl.Trainer(
        accelerator=trained.config.trainer.accelerator if torch.cuda.is_available() else "cpu",
        devices=1,
        precision=trained.config.trainer.precision,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    module = classifier(trained.network, trained.config, data.num_classes)
    (metrics,) = trainer.validate(module, datamodule=data, verbose=False)
    return 100 * metrics["val/top1"]


def read_metrics(folder: Path) -> dict[str, list[float]]:
    """Every logged number by key, in order; those before an interruption are in metrics.N.csv."""
    metrics: dict[str, list[float]] = {}
    before = sorted(folder.glob("metrics.*.csv"), key=lambda path: int(path.suffixes[0][1:]))
    for path in (*before, folder / "metrics.csv"):
        with path.open() as file:
            for line in csv.DictReader(file):
                for key, value in line.items():
                    if value:
                        metrics.setdefault(key, []).append(float(value))
    return metrics


def seconds_of_validations(folder: Path) -> list[float | None]:
    """Wall time of each validation since training began, of a run that was not interrupted."""
    from sparsetrain.lightning.report.measures import validations
    from sparsetrain.lightning.report.record import read_run

    return [validation.seconds for validation in validations(read_run(folder))]


def newest_of(*checkpoints: Path) -> Path | None:
    """The one written last of those that there are."""
    there = [path for path in checkpoints if path.is_file()]
    return max(there, key=lambda path: path.stat().st_mtime) if there else None


def flip_rates(metrics: dict[str, list[float]]) -> dict[str, float] | None:
    """First, highest, mean and last; None where no masks were chosen twice."""
    rates = metrics.get("sparsity/flip_rate")
    if not rates:
        return None
    mean = statistics.fmean(rates)
    return {"first": rates[0], "highest": max(rates), "mean": mean, "last": rates[-1]}


def last_of(metrics: dict[str, list[float]], key: str) -> float | None:
    return metrics[key][-1] if key in metrics else None


def mean_of_last(metrics: dict[str, list[float]], key: str, number: int) -> float | None:
    """Of a number that is another for each batch."""
    return statistics.fmean(metrics[key][-number:]) if key in metrics else None


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """A config as dotted keys, for tables."""
    values = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            values |= flat(value, f"{prefix}{key}.")
        else:
            values[f"{prefix}{key}"] = value
    return values


def without_paths(values: dict[str, Any]) -> dict[str, Any]:
    """Without what says where things were on the machine."""
    is_path = {key: str(value).startswith("/") for key, value in values.items()}
    return {key: value for key, value in values.items() if not is_path[key]}


def git_commit() -> str | None:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ),
    )
    return done.stdout.strip() or None
