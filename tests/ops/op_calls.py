"""Which ops ran, how often, and what they gave: in a forward, a backward, or a whole run."""

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class OpCalls(TorchDispatchMode):
    """While it is entered, the calls of this package's ops by name, in order.

    results: what each call gave, which keeps it in memory; counts are enough for whole runs.
    """

    def __init__(self, keep: bool = False) -> None:
        super().__init__()
        self.keep = keep
        self.names: list[str] = []
        self.results: dict[str, list[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.namespace == "sparsetrain":
            name = func.__name__.split(".")[0]
            self.names.append(name)
            if self.keep:
                self.results.setdefault(name, []).append(result)
        return result

    def count(self, *names: str) -> int:
        return sum(name in names for name in self.names)
