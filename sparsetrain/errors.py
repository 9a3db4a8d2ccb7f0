"""Errors with a meaning of their own."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def installed(package: str, what: str) -> Iterator[None]:
    """Around imports that `what` needs: raises ModuleNotFoundError that says what to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        line = f"{what} needs {package}: pip install {package}"
        raise ModuleNotFoundError(line, name=error.name) from None


def first_three(found: Sequence[str]) -> str:
    """As "a, b, c and 4 more"."""
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return f"{', '.join(found[:3])}{more}"


class NonFiniteError(RuntimeError):
    """The loss or a gradient is not finite. The last checkpoint is untouched."""
