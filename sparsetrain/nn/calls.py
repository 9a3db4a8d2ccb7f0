"""Which of PyTorch's ops a piece of code runs."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_COPIES = {torch.ops.aten.clone.default, torch.ops.aten._unsafe_view.default}


class Calls(TorchDispatchMode):
    """Inside it, the ops that compute values or read them, with their keywords.

    Views and copies do neither. A branch on a value shows, because an op reads the value.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[tuple[str, dict[str, Any]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not func.is_view and func not in _COPIES:
            self.ops.append((func.overloadpacket.__name__, kwargs))
        return func(*args, **kwargs)

    def counts(self) -> Counter[str]:
        """How often each op ran, by its name."""
        return Counter(name for name, _ in self.ops)
