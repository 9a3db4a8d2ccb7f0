"""Errors in one line, where their message says what to do."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

INTERRUPTED = 130
"""Exit status after Ctrl-C, as a shell gives it: 128 + SIGINT."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came where nothing else handles it. What ends well after Ctrl-C does then, too."""


@contextmanager
def terminable() -> Iterator[None]:
    """Raise Terminated on SIGTERM, which else would leave processes and folders behind."""

    def end(signum: int, frame: Any) -> None:
        raise Terminated

    if signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is end:  # and not ignored meanwhile
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def explained() -> Iterator[None]:
    """Print errors whose message is meant for the user, without a traceback, and exit with 1.

    HYDRA_FULL_ERROR=1 shows the traceback, as it does in any program that uses Hydra.
    """
    try:
        yield
    except Terminated:
        stop("interrupted by SIGTERM", 128 + signal.SIGTERM)
    except KeyboardInterrupt:
        stop("interrupted", INTERRUPTED)
    except _meant_for_the_user() as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        stop(one_line(error), 1)
    except (RuntimeError, EOFError) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1" or (why := lost_process(error)) is None:
            raise
        stop(why, 1)


def lost_process(error: Exception) -> str | None:
    """What is known of a process of the run that ended without a word, as one does that Linux kills
    for its memory; None for other errors."""
    text = str(error)
    first = text.partition("\n")[0].strip().rstrip(".")
    if text.startswith("DataLoader worker"):
        return f"{first}{_IF_MEMORY}"
    if isinstance(error, (ConnectionError, EOFError)):
        return f"another process of the run has ended: {first or type(error).__name__}{_IF_MEMORY}"
    if "Connection reset by peer" in text or "Connection closed by peer" in text:
        return f"another process of the run has ended: {first}"
    return None


_IF_MEMORY = ": if memory ran out, lower data.num_workers or data.prefetch_factor"


def one_line(error: BaseException) -> str:
    """The message that matters of an error and of what wraps it."""
    from hydra.errors import InstantiationException

    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if "Traceback" in str(error):  # DataLoader workers send theirs as text
        return lines[-1].partition("Error: ")[2] or lines[-1]
    return " ".join(lines) or type(error).__name__


def stop(message: str, status: int) -> NoReturn:
    """End the program with a line on standard error; on a terminal it wraps between words.

    A command follows a line break in the message. It stays whole, so that it can be copied.
    """
    first, *commands = f"sparsetrain: {message}".split("\n")
    lines = [first]
    if sys.stderr is not None and sys.stderr.isatty():
        from sparsetrain.cli.console import wrapped  # with rich, which a good start does not need

        lines = wrapped(first, shutil.get_terminal_size().columns)
    print("\n".join([*lines, *commands]), file=sys.stderr)
    raise SystemExit(status)


def _meant_for_the_user() -> tuple[type[BaseException], ...]:
    """Evaluated when something was raised, so that a good start does not wait for the imports."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from sparsetrain.errors import NonFiniteError

    kinds = (ValueError, OSError, NonFiniteError, HydraException, OmegaConfBaseException)
    if "pytorch_lightning" not in sys.modules:
        return kinds
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    return (*kinds, MisconfigurationException)
