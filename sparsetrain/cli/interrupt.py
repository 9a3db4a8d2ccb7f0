"""Ctrl-C during `fit`: where the run stopped, and the command that goes on."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from pytorch_lightning.trainer.states import TrainerStatus

from sparsetrain.cli.explain import INTERRUPTED, stop
from sparsetrain.cli.overrides import split_word
from sparsetrain.cli.show import relative
from sparsetrain.lightning import SaveOnInterrupt


@contextmanager
def resumable(trainer: pl.Trainer) -> Iterator[None]:
    """Where Lightning exits after Ctrl-C without a word: say how to go on, and exit with 130."""
    try:
        yield
    except SystemExit:
        if trainer.state.status != TrainerStatus.INTERRUPTED:
            raise
        if not trainer.is_global_zero:
            raise SystemExit(INTERRUPTED) from None
        stop(_how_to_go_on(trainer), INTERRUPTED)


def _how_to_go_on(trainer: pl.Trainer) -> str:
    step = trainer.global_step
    saver = next((c for c in trainer.callbacks if isinstance(c, SaveOnInterrupt)), None)  # type: ignore[attr-defined]
    if saver is None:
        return f"interrupted after step {step}; callbacks.interrupt is null, so nothing was saved"
    last = saver.path.with_name("last.ckpt")
    found = next((path for path in (saver.path, last) if path.is_file()), None)
    if found is None:
        return f"interrupted after step {step}, before any checkpoint was written"
    return (
        f"interrupted after step {step}; saved {relative(found)}\n"
        f"go on with: {resume_command(found)}"
    )


def resume_command(checkpoint: Path) -> str:
    """The command line of this run, with `checkpoint=` for the file given."""
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        words = ["fit", *HydraConfig.get().overrides.task]
    else:
        words = sys.argv[1:]
    words = [word for word in words if split_word(word)[0] != "checkpoint"]
    program = ["sparsetrain"]
    if sys.argv[0].endswith("__main__.py"):
        program = ["python", "-m", "sparsetrain"]
    if torch.distributed.is_torchelastic_launched():
        program = ["torchrun", "…", "-m", "sparsetrain"]
    return " ".join([*program, *map(shlex.quote, [*words, f"checkpoint={relative(checkpoint)}"])])
