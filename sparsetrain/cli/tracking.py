"""`fit` and Weights & Biases: which run it is, and what it is given at the end."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict

from sparsetrain.cli.overrides import split_word
from sparsetrain.cli.show import show_line
from sparsetrain.lightning.callbacks.wandb_run import WANDB_KEY, log_files, wandb_run
from sparsetrain.lightning.flavour import pl
from sparsetrain.lightning.report import Run

_LONGEST_NAME = 128  # characters that W&B takes


def name_run(config: DictConfig, saved: dict[str, Any] | None, swept: Collection[str]) -> None:
    """Fill in a missing name, id and group. A name is the recipe with the words of the command line
    by which runs of it differ: the sparsity, and the `swept` keys. A resumed run keeps its id. The
    runs of a sweep share a group and have an id each."""
    node = config.logger.get("wandb")
    if node is None or "id" not in node:
        return
    job = HydraConfig.get()
    sweeps = job.mode == RunMode.MULTIRUN
    told = [word for word in job.overrides.task if split_word(word)[0] in ("sparsity", *swept)]
    with open_dict(node):
        if node.name is None:
            words = (word for word in told if split_word(word)[0] != "recipe")
            node.name = " ".join([job.runtime.choices["recipe"], *words])[:_LONGEST_NAME]
        if node.id is None and saved is not None and not sweeps:
            node.id = _checked_id(saved.get(WANDB_KEY), config.checkpoint)
        if node.group is None and sweeps:
            node.group = f"sweep {Path(HydraConfig.get().sweep.dir).name}"


def _checked_id(saved: Any, path: str) -> str | None:
    """The id of a checkpoint's W&B run: it becomes a part of names and addresses. Raises ValueError
    in one line for one that W&B does not give."""
    if saved is None or (isinstance(saved, str) and re.fullmatch(r"[A-Za-z0-9_-]{1,64}", saved)):
        return saved
    raise ValueError(
        f"checkpoint={path}: {WANDB_KEY}={reprlib.repr(saved)} is no id of a W&B run (up to 64 "
        "letters of ASCII, digits, - and _): give one with logger.wandb.id="
    )


@contextmanager
def own_wandb_run(trainer: pl.Trainer) -> Iterator[None]:
    """Close the W&B run with the training: the next of a sweep, in this process, opens its own."""
    if wandb_run(trainer) is None:
        yield
        return
    import wandb

    try:
        yield
    except BaseException:
        wandb.finish(exit_code=1)
        raise
    wandb.finish()


def give_files(trainer: pl.Trainer, record: Run, run_dir: Path) -> str | None:
    """Log masks, layers, report and the best checkpoint. Returns where the run is to be seen, None
    offline. That W&B cannot take something is told, and stops nothing: the run is done."""
    run = wandb_run(trainer)
    if run is None:
        return None
    from wandb.errors import Error

    files = {
        "report": run_dir / "report.html",
        "model": run_dir / "checkpoints" / "best.ckpt",
    }
    try:
        log_files(run, record, files)
    except (Error, OSError, ValueError) as error:
        show_line(f"wandb: {error}; the files of the run are in {run_dir} alone")
    return run.url
