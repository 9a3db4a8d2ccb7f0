"""The terminal that the commands print to."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Container
from pathlib import Path

from rich.console import Console
from rich.markup import escape

LOG_COLUMNS = 120
"""Width of what is not a terminal: log files need not wrap at Rich's 80."""

console = Console(highlight=False, width=None if sys.stdout.isatty() else LOG_COLUMNS)


def print_lines(lines: tuple[str, ...]) -> None:
    """A line each; long ones wrap between words where the terminal ends, and are never cut.

    They go through `print`, which the bar of a training run shows above itself. What this console
    prints would land in the bar.
    """
    for line in lines:
        for part in wrapped(line, console.width) if console.is_terminal else [line]:
            print(part, flush=True)


def show_values(values: tuple[tuple[str, str], ...], prose: Container[str] = ()) -> None:
    """Label and value on a line each; long values are never cut.

    prose: labels whose values wrap on a terminal, between words and below their beginning.
        Commands and paths must not: the terminal breaks them, so that they can be copied whole.
    """
    width = max(len(label) for label, _ in values)
    for label, value in values:
        wraps = label in prose and console.is_terminal
        lines = wrapped(value, console.width - width - 2) if wraps else [value]
        text = f"\n{' ' * (width + 2)}".join(escape(line) for line in lines)
        console.print(f"[dim]{label:<{width}}[/dim]  {text}", soft_wrap=True)


def wrapped(text: str, width: int) -> list[str]:
    """Words that are wider, as paths may be, stay whole, so that they can be copied."""
    wrap = textwrap.TextWrapper(max(width, 20), break_long_words=False, break_on_hyphens=False)
    return wrap.wrap(text) or [""]


def relative(path: str | Path) -> Path:
    """The path from here, where it lies below; else as it is."""
    path = Path(path)
    try:
        here = Path.cwd()
    except FileNotFoundError:  # it was removed
        return path
    return path.relative_to(here) if path.is_relative_to(here) else path
