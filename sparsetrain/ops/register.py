"""How an op comes to be, from its schema, check, fake and kernel."""

from collections.abc import Callable
from typing import Any

import torch


def register(
    schema: str,
    *,
    check: Callable[..., None],
    fake: Callable[..., Any],
    kernel: Callable[..., Any],
) -> Callable[..., Any]:
    """Define an op in the namespace `sparsetrain`; return the function that checks and calls it.

    schema   "name(Tensor x, float kept=1.0) -> Tensor"
    check    raises ValueError for what the op does not take
    fake     gives empty results of the right shapes, for torch.compile
    kernel   the definition, in plain PyTorch; csrc/library.cpp replaces it on CUDA tensors

    check, fake and kernel get every argument of the schema, in its order: defaults stand in the
    schema alone. Kernels for CUDA check in words of their own, so the returned function checks
    before it calls the op, and a caller reads the same complaint on every device. The plain kernel
    checks too, for callers of `torch.ops.sparsetrain.name`.
    """
    name, _, signature = schema.partition("(")
    qualified = f"sparsetrain::{name}"
    torch.library.define(qualified, f"({signature}", tags=torch.Tag.pt2_compliant_tag)
    op = getattr(torch.ops.sparsetrain, name).default
    defaults = tuple(argument.default_value for argument in op._schema.arguments)

    def complete(given: tuple[Any, ...]) -> tuple[Any, ...]:
        """Add the trailing arguments, which PyTorch leaves out where they are the defaults."""
        return given + defaults[len(given) :]

    @torch.no_grad()
    def checked_kernel(*given: Any) -> Any:
        check(*complete(given))
        return kernel(*complete(given))

    def complete_fake(*given: Any) -> Any:
        return fake(*complete(given))

    def checked_op(*given: Any) -> Any:
        check(*given)
        return op(*given)

    torch.library.impl(qualified, "default", checked_kernel)
    torch.library.register_fake(qualified, complete_fake)
    return checked_op


def nothing(*_: Any) -> None:
    """The fake of an op that writes in place and returns nothing."""
