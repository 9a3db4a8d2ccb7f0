"""A benchmark as a command: its words, its help, its errors in one line."""

from __future__ import annotations

import sys
from collections.abc import Callable


def run(main: Callable[[list[str]], None], text: str | None) -> None:
    """Call main with the words of the command line; `--help` prints the text instead."""
    words = sys.argv[1:]
    if any(word in ("-h", "--help", "help") for word in words):
        print(text)
        return
    try:
        main(words)
    except (ValueError, OSError) as error:
        sys.exit(" ".join(str(error).split()))
    except KeyboardInterrupt:
        sys.exit("interrupted")
