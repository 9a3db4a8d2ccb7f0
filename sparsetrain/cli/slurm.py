"""A run in a SLURM job: one folder for all its starts, and where it goes on after the first."""

from __future__ import annotations

import os
from pathlib import Path

from sparsetrain.cli.overrides import split_word, take

RUN_DIR = "hydra.run.dir"


def with_job_folder(words: list[str]) -> list[str]:
    """In a batch job, the words with a run folder named by it, unless they name one: a job that is
    queued again has the same number, and finds what it saved."""
    job, (recipe, _) = os.environ.get("SLURM_JOB_ID"), take(words, "recipe")
    named = any(split_word(word)[0] == RUN_DIR for word in words)
    if job is None or named or os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        return words
    return [*words, f"{RUN_DIR}=runs/{recipe}/slurm-{job}"]


def restarted_from(folder: Path) -> Path | None:
    """The newest checkpoint in the run folder of a job that SLURM has started before; None in its
    first start, and outside SLURM."""
    if int(os.environ.get("SLURM_RESTART_COUNT", "0")) == 0:
        return None
    files = [path for path in (folder / "checkpoints").glob("*.ckpt") if path.name != "best.ckpt"]
    return max(files, key=lambda path: path.stat().st_mtime, default=None)
