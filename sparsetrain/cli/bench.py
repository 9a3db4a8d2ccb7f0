"""`bench`: kernels, layers and training steps against dense and the peers, on one device."""

from __future__ import annotations

from sparsetrain.cli.bench_matmul import bench_matmul
from sparsetrain.cli.bench_mlp import bench_mlp
from sparsetrain.cli.bench_sparsify import bench_sparsify
from sparsetrain.cli.bench_step import bench_step
from sparsetrain.recipe import nearest

_BENCHMARKS = {
    "sparsify": bench_sparsify,
    "matmul": bench_matmul,
    "mlp": bench_mlp,
    "step": bench_step,
}


def bench(words: list[str]) -> None:
    """Run the benchmark named first with the key=value words after it."""
    if not words:
        raise ValueError(f"bench needs one of {', '.join(_BENCHMARKS)}")
    name = words[0]
    if name not in _BENCHMARKS:
        raise ValueError(f"bench {name!r} is unknown: {nearest(name, _BENCHMARKS)}")
    _BENCHMARKS[name](words[1:])
