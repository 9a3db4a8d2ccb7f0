"""A `fit` that stops early: where, and the command that goes on."""

from __future__ import annotations

import errno
import shlex
import signal
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
from sparsetrain.cli.explain import Terminated, lost_process, one_line, stop
from sparsetrain.cli.overrides import split_word
from sparsetrain.errors import NonFiniteError
from sparsetrain.lightning import SaveLast, SaveOnInterrupt
from sparsetrain.lightning.flavour import pl


@contextmanager
def resumable(trainer: pl.Trainer) -> Iterator[None]:
    """Where training stops early, say how to go on: after Ctrl-C and other signals, after which
    Lightning exits without a word and this with 128 and the signal's number, after numbers that are
    not finite, where a file cannot be read or written and where another process was lost."""
    try:
        yield
    except NonFiniteError as error:
        raise NonFiniteError(f"{error}; {_newest(trainer)}") from error
    except ValueError as error:
        if _last(trainer) is None:
            raise
        raise ValueError(f"{one_line(error)}; {_newest(trainer)}") from error
    except (OSError, RuntimeError, EOFError) as error:
        why = lost_process(error)
        if why is None and isinstance(error, OSError):
            why = _why_not_written(error)
        if why is None:
            raise
        raise OSError(f"{why}; {_newest(trainer)}") from error
    except SystemExit as end:
        if trainer.state.status != TrainerStatus.INTERRUPTED:
            raise
        saver = _find(trainer, SaveOnInterrupt)
        if saver is not None and saver.requeued:
            # SLURM sends it because of that, and the run ends already.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        asked = saver.asked if saver is not None and saver.asked else _signal_of(end)
        status = 128 + asked
        if not trainer.is_global_zero:
            # Another status has launchers kill the first process, which may not be done yet.
            raise SystemExit(0) from None
        if saver is not None and saver.together and (started := _started(trainer)):
            # Lightning has killed them, and would kill this one for it, too.
            started.clear()
        if saver is not None and saver.requeued:
            stop(
                f"SLURM's time is up after step {trainer.global_step}: saved, queued again", status
            )
        stop(_how_to_go_on(trainer, asked), status)


def _started(trainer: pl.Trainer) -> list[Any]:
    """The processes that this one started, which a thread of Lightning's watches."""
    return getattr(trainer.strategy.launcher, "procs", [])


def _signal_of(end: SystemExit) -> int:
    """What stopped a run whose training had not begun."""
    return signal.SIGTERM if isinstance(end.__context__, Terminated) else signal.SIGINT


def _why_not_written(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{where}the disk is full: make room, and go on from the newest checkpoint"
    return str(error)


def _how_to_go_on(trainer: pl.Trainer, asked: int) -> str:
    saver = _find(trainer, SaveOnInterrupt)
    by = "" if asked == signal.SIGINT else f" by {signal.Signals(asked).name}"
    begin = f"interrupted{by} after step {trainer.global_step}; "
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
