"""The version of the files that are written here: checkpoints and recipes.

1    the first, and that of every file without a version
2    a `selection` chooses masks, which was `rule` of a method; layers say at which step they are
"""

from __future__ import annotations

import reprlib
from typing import Any

FORMAT = 2
"""What is written, and the newest that is read."""

OLDEST = 1
"""The oldest that is read."""

CHECKPOINT_KEY = "sparsetrain_format"
RECIPE_KEY = "format"


def check_format(version: Any, where: str) -> None:
    """Raise ValueError in one line, saying what to do, for a file that cannot be read here.

    version: what the file says, None if nothing. where: names the file.
    """
    if version is None:
        return
    if not isinstance(version, int) or isinstance(version, bool):
        said = reprlib.repr(version)
        raise ValueError(f"{where} has format {said}: a format is a number, {FORMAT} here")
    if version > FORMAT:
        raise ValueError(
            f"{where} has format {version}, and this sparsetrain reads up to {FORMAT}: install a "
            "newer sparsetrain"
        )
    if version < OLDEST:
        raise ValueError(
            f"{where} has format {version}, and this sparsetrain reads from {OLDEST}: use the "
            "sparsetrain that wrote it, or write it again"
        )
