"""A `fit` that stops early: where, and the command that goes on."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from pytorch_lightning.trainer.states import TrainerStatus

from sparsetrain.cli.console import relative
from sparsetrain.cli.explain import INTERRUPTED, stop
from sparsetrain.cli.overrides import split_word
from sparsetrain.errors import NonFiniteError
from sparsetrain.lightning import SaveLast, SaveOnInterrupt
from sparsetrain.lightning.flavour import pl


@contextmanager
def resumable(trainer: pl.Trainer) -> Iterator[None]:
    """Where training stops early, say how to go on: after Ctrl-C, after which Lightning exits
    without a word and this with 130, and after numbers that are not finite."""
    try:
        yield
    except NonFiniteError as error:
        raise NonFiniteError(f"{error}; {_newest(trainer)}") from error
    except SystemExit:
        if trainer.state.status != TrainerStatus.INTERRUPTED:
            raise
        if not trainer.is_global_zero:
            raise SystemExit(INTERRUPTED) from None
        stop(_how_to_go_on(trainer), INTERRUPTED)


def _how_to_go_on(trainer: pl.Trainer) -> str:
    saver = _find(trainer, SaveOnInterrupt)
    begin = f"interrupted after step {trainer.global_step}; "
    if saver is not None and saver.saved:
        return f"{begin}saved {relative(saver.path)}\ngo on with: {resume_command(saver.path)}"
    why = "callbacks.interrupt is null, so " if saver is None else ""
    last = _last(trainer)
    command = f"\ngo on with: {resume_command(last.path)}" if last else ""
    return f"{begin}{why}{_newest(trainer)}{command}"


def _newest(trainer: pl.Trainer) -> str:
    last = _last(trainer)
    if last is None:
        return "no checkpoint was written"
    return f"the newest checkpoint is {relative(last.path)}, of step {last.step}"


def _last(trainer: pl.Trainer) -> SaveLast | None:
    """What wrote `last.ckpt` in this run; None if nothing did."""
    last = _find(trainer, SaveLast)
    return None if last is None or last.step is None else last


def _find(trainer: pl.Trainer, kind: Any) -> Any:
    return next((c for c in trainer.callbacks if isinstance(c, kind)), None)  # type: ignore[attr-defined]


def resume_command(checkpoint: Path) -> str:
    """The command line of this run, with `checkpoint=` for the file given, in a folder of its own:
    in the same one its best checkpoint and its metrics would take the place of this run's."""
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        allowed = [word for word in sys.argv if split_word(word)[0] == "allow_targets"]
        words = ["fit", *HydraConfig.get().overrides.task, *allowed]
    else:
        words = sys.argv[1:]
    dropped = ("checkpoint", "hydra.run.dir")
    words = [word for word in words if split_word(word)[0] not in dropped]
    program = ["sparsetrain"]
    if sys.argv[0].endswith("__main__.py"):
        program = ["python", "-m", "sparsetrain"]
    if torch.distributed.is_torchelastic_launched():
        program = ["torchrun", "…", "-m", "sparsetrain"]
    return " ".join([*program, *map(shlex.quote, [*words, f"checkpoint={relative(checkpoint)}"])])
