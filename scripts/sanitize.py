"""Call every CUDA kernel on a few odd sizes, for compute-sanitizer (scripts/gpu_check).

    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --error-exitcode 1 --tool memcheck \\
        python scripts/sanitize.py

Nothing is compared here. Without PyTorch's cache every tensor has an allocation of its own, and a
byte read or written outside shows.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from torch import Tensor

from sparsetrain import native, ops
from sparsetrain.pattern import RULES

SIZES = ((1, 4), (37, 132), (130, 264), (65, 520))
"""Less than a tile of a block, with parts of tiles, and rows that are whole vectors."""

WIDE = (193, 51464)
"""More than 800 tiles of 64 x 256, where packing takes wide ones, ragged in both directions."""

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def matrices() -> Iterator[Tensor]:
    """Random matrices; every second one is a transposed view."""
    for number, (rows, columns) in enumerate(SIZES):
        for dtype in DTYPES:
            x = torch.randn(rows, columns).to(dtype)
            yield x.cuda() if number % 2 == 0 else x.T.contiguous().cuda().T


def call_every_op(x: Tensor) -> None:
    """Every op that has a kernel, every rule, with a mask of the same size where one goes in."""
    seed = torch.tensor([7], device=x.device)
    mask = ops.random24(x.shape[0], x.shape[1], seed)
    narrow = torch.bfloat16 if x.dtype == torch.float32 else None
    for rule in RULES:
        ops.select24(x, rule)
        ops.sparsify24(x, rule, narrow, mask)
        ops.squared_relu24_backward(x, *ops.squared_relu24(x, rule), rule)
    ops.apply24(x, mask)
    ops.apply24(x, mask, narrow)
    ops.mask24(x, mask, 1.0, 0.5)
    ops.add_mask24_(x.clone(), x, mask, 0.0, 0.5)
    ops.flips24(mask, mask)
    ops.mvue24(x, seed)
    ops.soft_threshold24(x, seed.float())


def call_wide_kernels(x: Tensor) -> None:
    """What packs in both orientations, on enough tiles for wide ones."""
    mask = ops.random24(x.shape[0], x.shape[1], torch.tensor([7], device=x.device))
    for rule in ("transposable", "greedy"):
        ops.sparsify24(x, rule, None, mask)
        ops.squared_relu24(x, rule)
    ops.apply24(x, mask)


def main() -> None:
    library = native.load()
    if library.path is None:
        sys.exit(f"no kernel library: {library.reason}; {library.fix}")
    torch.manual_seed(0)
    for x in matrices():
        call_every_op(x)
    call_wide_kernels(torch.randn(WIDE).bfloat16().cuda())
    torch.cuda.synchronize()
    print(f"called every kernel on {len(SIZES)} sizes of {len(DTYPES)} dtypes, wide ones on {WIDE}")


if __name__ == "__main__":
    main()
