"""`--help` of the scripts whose help is the text at their top."""

import sys


def answer_help(text: str | None) -> None:
    """Print a script's own text and end, where the command line asks for help."""
    if any(word in ("-h", "--help", "help") for word in sys.argv[1:]):
        print(text)
        sys.exit()
