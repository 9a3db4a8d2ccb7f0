"""A benchmark as a command: its words, its help, its errors in one line."""

from __future__ import annotations

import sys
from collections.abc import Callable

from scripts.help_text import answer_help


def run(main: Callable[[list[str]], None], text: str | None) -> None:
    """Call main with the words of the command line; `--help` prints the text instead."""
    answer_help(text)
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as error:
        sys.exit(" ".join(str(error).split()))
    except KeyboardInterrupt:
        sys.exit("interrupted")
