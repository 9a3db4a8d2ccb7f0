"""What makes a matrix 2:4, ours and the peers', one matrix after the other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from scripts.bench.candidate import Candidate, bytes_per_element, formula
from scripts.bench.ours import check_against_reference, our_candidates
from scripts.bench.peers import CLONE, clone, usable_peers
from scripts.bench.quality import Quality, quality
from sparsetrain.bench.timing import CALLS, Clock, Clocks, Run, Times, measure

LARGE = 64_000_000
"""Elements from which a matrix outgrows every cache and is held against the copy of a large one."""

NO_KERNEL = "the library has no CUDA kernel for it, and the reference is not worth timing"

_COPY_BYTES = 2**30


@dataclass(frozen=True)
class Matrix:
    """What is made 2:4. A float32 matrix is a master weight, packed as bfloat16."""

    rows: int
    columns: int
    dtype: torch.dtype

    @property
    def packed(self) -> torch.dtype:
        return torch.bfloat16 if self.dtype == torch.float32 else self.dtype

    @property
    def large(self) -> bool:
        return self.rows * self.columns >= LARGE

    def __str__(self) -> str:
        name = f"{self.rows}×{self.columns} {_name(self.dtype)}"
        return name if self.packed == self.dtype else f"{name} to {_name(self.packed)}"


@dataclass(frozen=True)
class Row:
    """What was measured of one candidate; the dicts have a key for each state, cold first.

    times      of a call
    rate       TB/s of the bytes that must be moved
    of_copy    rate as a share of the large copy's
    to_clone   time as a multiple of the clone's of the same matrix
    speed_up   over the peer, None without one
    """

    name: str
    bytes_per_element: float
    formula: str
    times: dict[str, Times]
    rate: dict[str, float]
    of_copy: dict[str, float]
    to_clone: dict[str, float]
    speed_up: dict[str, float] | None
    quality: Quality | None


@dataclass(frozen=True)
class Result:
    """All rows of a matrix, and what is not among them, with the reason."""

    matrix: Matrix
    rows: tuple[Row, ...]
    skipped: dict[str, str]


def copy_rate(device: torch.device, clock: Clock, rounds: int, size: int = _COPY_BYTES) -> float:
    """TB/s, read plus written, of a copy of `size` random bytes: the ceiling."""
    source = torch.randint(256, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times = measure({"copy": lambda: target.copy_(source)}, clock, rounds)
    return 2 * size / times["copy"].median / 1e6


def bench_matrix(
    matrix: Matrix,
    wanted: tuple[str, ...],
    device: torch.device,
    clocks: Clocks,
    rounds: int,
    copy: float,
) -> Result:
    """Time the ops wanted, the peers and the clone on one random normal matrix.

    Large matrices cold; others cold, warm, and as a CUDA graph where that can be captured.
    copy: TB/s of `copy_rate`. Raises ValueError where an op of ours is not what its reference is.
    """
    generator = torch.Generator(device).manual_seed(0)
    shape = matrix.rows, matrix.columns
    x = torch.randn(shape, generator=generator, device=device, dtype=matrix.dtype)
    peers, skipped = usable_peers(x, matrix.packed)
    ours, missing = _with_kernel(our_candidates(matrix.dtype, matrix.packed, wanted), device)
    candidates = [*ours, *peers, clone()]

    inputs = {candidate.name: candidate.inputs(x) for candidate in candidates}
    masks: dict[str, Quality] = {}
    for candidate in candidates:
        results = candidate.results(inputs[candidate.name])
        check_against_reference(candidate, x, results)
        if candidate.mask is not None:
            masks[candidate.name] = quality(x, candidate.mask(results, x))
        del results

    runs: dict[str, Run] = {c.name: partial(c.call, *inputs[c.name]) for c in candidates}
    times = {"cold": measure(runs, clocks.cold, rounds)}
    if not matrix.large:
        times["warm"] = measure(runs, clocks.warm, rounds)
        graphs = {c.name: clocks.capture(runs[c.name]) for c in candidates if c.graph}
        per_graph = measure(graphs, clocks.warm, rounds)
        times["graph"] = {name: taken.divided(CALLS) for name, taken in per_graph.items()}
    rows = [_row(c, matrix, times, copy, masks.get(c.name)) for c in candidates]
    return Result(matrix, tuple(rows), {**missing, **skipped})


def _with_kernel(
    candidates: list[Candidate], device: torch.device
) -> tuple[list[Candidate], dict[str, str]]:
    """Those that run a kernel on the device, and the others with the reason."""
    if device.type != "cuda":
        return candidates, {}
    served = [c for c in candidates if has_kernel(c.name.split()[0])]
    return served, {c.name: NO_KERNEL for c in candidates if c not in served}


def has_kernel(op: str) -> bool:
    """Whether the op has a CUDA kernel, so that its reference is not what runs there."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"sparsetrain::{op}", "CUDA")


def _row(
    candidate: Candidate,
    matrix: Matrix,
    times: dict[str, dict[str, Times]],
    copy: float,
    kept: Quality | None,
) -> Row:
    per_element = bytes_per_element(candidate.terms, matrix.dtype, matrix.packed)
    size = per_element * matrix.rows * matrix.columns
    states = [state for state, taken in times.items() if candidate.name in taken]
    median = {state: times[state][candidate.name].median for state in states}
    rate = {state: size / median[state] / 1e6 for state in states}
    peer = {s: times[s][candidate.peer].median for s in states if candidate.peer in times[s]}
    return Row(
        name=candidate.name,
        bytes_per_element=per_element,
        formula=formula(candidate.terms, matrix.dtype, matrix.packed),
        times={state: times[state][candidate.name] for state in states},
        rate=rate,
        of_copy={state: rate[state] / copy for state in states},
        to_clone={state: median[state] / times[state][CLONE].median for state in states},
        speed_up={state: peer[state] / median[state] for state in peer} or None,
        quality=kept,
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
