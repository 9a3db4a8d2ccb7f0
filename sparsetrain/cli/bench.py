"""`bench`: whole training steps against dense, on one device."""

from __future__ import annotations

from sparsetrain.cli.bench_step import bench_step

_OF_DEVELOPERS = ("sparsify", "matmul", "mlp")
"""Benchmarks that are in scripts/bench, not in the package."""


def bench(words: list[str]) -> None:
    """Run the benchmark named first with the key=value words after it."""
    if not words:
        raise ValueError("bench needs a name: python -m sparsetrain bench step")
    name = words[0]
    if name in _OF_DEVELOPERS:
        raise ValueError(
            f"bench {name} is in scripts/bench of the source: run"
            f" `python -m scripts.bench.{name}` in a checkout"
        )
    if name != "step":
        raise ValueError(f"bench {name!r} is unknown: there is step")
    bench_step(words[1:])
