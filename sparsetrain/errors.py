"""Errors with a meaning of their own."""


class NonFiniteError(RuntimeError):
    """The loss or a gradient is not finite. The last checkpoint is untouched."""
