"""The products of an MLP in 8 bits, ours against cuBLAS in bfloat16 and PyTorch's dense ones.

2:4 products of other libraries are in matmul8_peers.py. Dense ones in 8 bits:

    fp8-row       torch._scaled_mm with a scale for each row of both operands
    fp8-tensor    the same with one scale for each operand
    int8          torch._int_mm, whose result is int32 and has no scales

Those in fp8 sum in the tensor cores alone (use_fast_accum). All multiply the operands that are not
pruned, quantized before the clock starts; so are ours. Gradients of weights have no product in 8
bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from scripts.bench.matmul8_peers import usable_peers8
from scripts.bench.matmul_measure import (
    DENSE,
    DENSE_TRANSPOSED,
    NATIVE,
    Row,
    native_config,
    round_of,
)
from scripts.bench.matmul_peers import PEERS8
from scripts.bench.sparsify_measure import NO_KERNEL, has_kernel
from sparsetrain import ops
from sparsetrain.bench.products import Product, why_wrong
from sparsetrain.bench.products8 import Quantized, quantized
from sparsetrain.bench.refusal import first_line
from sparsetrain.bench.timing import Clock, Run, measure


@dataclass(frozen=True)
class WithPeers(Quantized):
    """A product in 8 bits, and what dense ones multiply: a [M, K0], not pruned, and scales_a."""

    a: Tensor
    scales_a: Tensor

    def dense8(self, peer: str) -> Tensor:
        """The dense product of a peer; by tensor its scales are 1, and cost what any would."""
        left, right, scales = self.a, self.b, (self.scales_a, self.scales_b)
        if self.problem.transpose_out:
            left, right, scales = right, left, scales[::-1]
        if peer == "int8":
            return torch.ops.aten._int_mm(left, right.T)
        if peer == "fp8-tensor":
            one = self.scales.new_ones(1, 1)
            scales = one, one
        return torch.ops.aten._scaled_mm(
            left, right.T, scales[0], scales[1].T, out_dtype=torch.bfloat16, use_fast_accum=True
        )


def with_peers(product: Product, dtype: torch.dtype) -> WithPeers:
    """A product in 8 bits, each operand with a scale for each of its rows along K."""
    left, right = product.operands(product.source)
    a_MK = right.T if product.problem.transpose_out else left
    a, scales_a = ops.quantize(a_MK, dtype)
    return WithPeers(**vars(quantized(product, dtype)), a=a, scales_a=scales_a)


def bench8(
    product: Product,
    dtype: torch.dtype,
    wanted: tuple[str, ...],
    clock: Clock,
    rounds: int,
    sms: int,
) -> Row:
    """Check 2:4 products against float64 of the same quantized operands, then time all that run.

    wanted: peers, of matmul8_peers.SPARSE_PEERS8. sms: multiprocessors of the device.
    """
    narrow = with_peers(product, dtype)
    of_torch = narrow.error(narrow.masked())

    def accept(result: Tensor) -> str:
        return why_wrong(narrow.error(result), of_torch)

    error = narrow.error(narrow.native())
    peers, refused = usable_peers8(narrow, wanted, accept, clock)
    errors = {name: narrow.error(peer.result()) for name, peer in peers.items()}
    del narrow.__dict__["oracle"]  # as large as all the rest
    runs: dict[str, Run] = {DENSE: product.dense, DENSE_TRANSPOSED: product.dense_transposed}
    skipped, reason = {}, no_kernel(product) or why_wrong(error, of_torch)
    if reason:
        skipped[NATIVE] = reason
    else:
        runs[NATIVE] = narrow.native
    runs |= {name: peer.run for name, peer in peers.items()}
    skipped |= refused
    for name in PEERS8[dtype]:
        run = partial(narrow.dense8, name)
        try:
            run()
        except (RuntimeError, ValueError) as error_of_torch:
            skipped[name] = first_line(error_of_torch)
        else:
            runs[name] = run
    problem = narrow.problem
    config = native_config(problem, sms)
    return Row(
        name=product.name,
        shape=product.shape,
        problem=problem,
        flops=product.flops,
        moved={NATIVE: _bytes(narrow), DENSE: product.bytes_moved(False)},
        times=measure(runs, clock, rounds, round_of(runs)),
        errors={DENSE: of_torch, **({} if reason else {NATIVE: error}), **errors},
        configs={
            **({NATIVE: config} if config and not reason else {}),
            **{name: peer.config for name, peer in peers.items() if peer.config},
        },
        skipped=skipped,
    )


def no_kernel(product: Product) -> str:
    """Why ours is not worth timing here, '' where it is."""
    return NO_KERNEL if product.b.is_cuda and not has_kernel("scaled_matmul24") else ""


def _bytes(narrow: Quantized) -> float:
    """That ours must move: half of A and two bits for each, b, a result of 16 bits."""
    M, N, K = narrow.problem.M, narrow.problem.N, narrow.problem.K
    return M * K * (1 / 2 + 1 / 8) + narrow.b.numel() + 2 * M * N
