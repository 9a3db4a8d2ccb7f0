"""Errors with a meaning of their own."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def installed(package: str, what: str) -> Iterator[None]:
    """Around imports that `what` needs: raises ModuleNotFoundError that says what to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        line = f"{what} needs {package}: pip install {package}"
        raise ModuleNotFoundError(line, name=error.name) from None


class NonFiniteError(RuntimeError):
    """The loss or a gradient is not finite. The last checkpoint is untouched."""
