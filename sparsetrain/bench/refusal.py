"""Why a candidate is not timed, in one line."""

from __future__ import annotations

import traceback


def first_line(error: BaseException) -> str:
    """Kind of error and the first line of what it says; without, the line that raised."""
    line = next(iter(str(error).strip().splitlines()), "")
    if not line and (frames := traceback.extract_tb(error.__traceback__)):
        line = frames[-1].line or ""
    return f"{type(error).__name__}: {line[:160]}" if line else type(error).__name__
