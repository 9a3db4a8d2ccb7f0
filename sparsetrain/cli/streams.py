"""Standard output and error whose reader may go away before the command ends."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def lasting_streams() -> Iterator[None]:
    """Have a run outlast the reader of what it prints: `| head`, a terminal that closes, a stream
    that was closed before it began. What is printed then goes nowhere."""
    before = sys.stdout, sys.stderr
    closed = [open(os.devnull, "w") if stream is None else None for stream in before]  # noqa: SIM115
    sys.stdout, sys.stderr = (
        _Lasting(stream or nowhere) for stream, nowhere in zip(before, closed, strict=True)
    )
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for nowhere in filter(None, closed):
            nowhere.close()


class _Lasting:
    """A text stream; as it is but for `write` and `flush`."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._let_go(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._let_go(error)

    def _let_go(self, error: OSError) -> None:
        """Of a reader that is gone: a closed pipe or terminal."""
        if error.errno not in (errno.EPIPE, errno.EIO):
            raise error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())  # for what is buffered, and other processes
        os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
