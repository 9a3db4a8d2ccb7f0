"""Errors of pyarrow that name the file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Errors of pyarrow as a ValueError in one line that names the file; others as they are."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the system, which names the file: no permission, no such file
        reason = " ".join(str(error).split())
        raise ValueError(
            f"cannot read {path} ({reason}): it is damaged or of another format; fetch or write "
            "it again"
        ) from error
