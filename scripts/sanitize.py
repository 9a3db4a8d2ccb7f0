"""Call every CUDA kernel on a few odd sizes, for compute-sanitizer
(scripts/gpu_check).

    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --error-exitcode 1 \\
        --tool memcheck python scripts/sanitize.py

Nothing is compared here. Without PyTorch's cache every tensor has an
allocation of its own, and a byte read or written outside shows.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import product

import torch
from help_text import answer_help
from torch import Tensor

from sparsetrain import native, ops
from sparsetrain.reference.pack24 import EIGHT_BITS
from sparsetrain.reference.quantize import SCALINGS, Scaling
from sparsetrain.select import RULES

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
    ops.mask24(x, mask, 1.0, 0.5, narrow)
    for rows, columns in ((False, True), (True, False), (True, True)):
        forms = ops.empty_forms24(x, narrow, rows=rows, columns=columns, dense=True)
        ops.pack_into24(x, mask, "transposable", *forms)
        for rule in ("transposable", "transposable_l2", "greedy"):
            ops.pack_into24(x, None, rule, *forms)
    ops.column_sums(x)
    ops.column_sums(x[:, 1:])
    for approximate in ("none", "tanh"):
        ops.gelu(x, approximate)
        ops.gelu_backward(x, x, approximate)
        ops.gelu_backward(x[:, 1:], x[:, 1:], approximate)
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
        ops.pack_into24(x, None, rule, *ops.empty_forms24(x, rows=True, dense=True))
    ops.apply24(x, mask)
    ops.pack_into24(x, mask, "greedy", *ops.empty_forms24(x, columns=True, dense=True))


QUANTIZED = (*SIZES, (70, 304), (33, 4624))
"""Besides, rows and columns of the single passes of squared ReLU, of both tiles."""


def call_quantizing(x: Tensor, dtype: torch.dtype) -> None:
    """What writes 8-bit values, in every scaling."""
    mask = ops.select24(x, "transposable")
    for scaling in SCALINGS:
        ops.quantize(x, dtype, scaling)
        ops.quantize24(x, mask, dtype, scaling)
        ops.quantize_both24(x, mask, dtype, scaling)
    for columns in (False, True):
        ops.quantize_across24(x, mask, dtype, columns)
    ops.narrow24(*ops.pack24(x, mask), dtype)
    ops.gelu_quantize(x, "none", dtype)
    ops.gelu_backward_quantize(x, x, "tanh", dtype)
    _, meta, _, values_t, meta_t = ops.squared_relu24_quantize(x, "transposable", dtype)
    ops.squared_relu24_backward_quantize(x, meta, values_t, meta_t, dtype)


PRODUCTS = ((1, 1, 4), (65, 7, 60), (200, 129, 132), (300, 264, 1000), (128, 64, 8192))
"""M, N, K of sparse products: tails of every tile, and one that is split along K."""


def call_products(M: int, N: int, K: int, dtype: torch.dtype) -> None:
    """The products, with b in every layout, both ways out, after every epilogue."""
    values, meta, *_ = ops.sparsify24(torch.randn(M, K).to(dtype).cuda(), "row")
    b = torch.randn(K, N).to(dtype).cuda()
    unaligned = torch.zeros(K, N + 3 + N % 2, dtype=dtype).cuda()[:, 1 : 1 + N]
    for lies in (b, b.T.contiguous().T, unaligned, torch.cat([b, b], 1)[:, ::2]):
        for transpose_out in (False, True):
            for out_dtype in (dtype, torch.float32):
                out = ops.matmul24(values, meta, lies, None, transpose_out, out_dtype)
                bias = out[0].to(dtype)
                ops.matmul24(
                    values, meta, lies, bias, transpose_out, out_dtype, "squared_relu", out
                )
                strided = out.T.contiguous().T
                ops.matmul24(values, meta, lies, bias, transpose_out, out_dtype, "gelu", strided)


def call_scaled_products(M: int, N: int, K: int, dtype: torch.dtype, scaling: Scaling) -> None:
    """The products of 8-bit values, both ways out, to 16 bits and to float32."""
    x, y = torch.randn(M, K).cuda(), torch.randn(N, K).cuda()
    packed = ops.quantize24(x, ops.select24(x, "row"), dtype, scaling)
    q, scales = ops.quantize(y, dtype, scaling)
    for transpose_out in (False, True):
        for out_dtype in (torch.bfloat16, torch.float32):
            bias = torch.ones(M if transpose_out else N).cuda()
            given = q.T, scales.T, bias, transpose_out, out_dtype
            ops.scaled_matmul24(*packed, *given)
    if dtype == torch.float8_e4m3fn:
        for approximate in ("none", "tanh"):
            given = q.T, scales.T, torch.ones(M).cuda(), approximate, torch.ones(N, 1).cuda()
            ops.scaled_gelu_matmul24(*packed, *given)


def main() -> None:
    answer_help(__doc__)
    library = native.load()
    if library.path is None:
        sys.exit(f"no kernel library: {library.reason}; {library.fix}")
    torch.manual_seed(0)
    for x in matrices():
        call_every_op(x)
    for (rows, columns), wide, dtype in product(QUANTIZED, DTYPES, EIGHT_BITS):
        call_quantizing(torch.randn(rows, columns).to(wide).cuda(), dtype)
    for M, N, K in PRODUCTS:
        for dtype in DTYPES[:2]:
            call_products(M, N, K, dtype)
        for dtype, scaling in product(EIGHT_BITS, SCALINGS):
            call_scaled_products(M, N, K, dtype, scaling)
    call_wide_kernels(torch.randn(WIDE).bfloat16().cuda())
    torch.cuda.synchronize()
    print(
        f"called every kernel on {len(SIZES)} sizes of {len(DTYPES)} dtypes, wide ones on {WIDE},"
    )
    print(f"products of {len(PRODUCTS)} sizes")


if __name__ == "__main__":
    main()
