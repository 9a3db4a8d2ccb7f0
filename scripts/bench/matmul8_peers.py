"""What PyTorch and torchao have for a 2:4 product in 8 bits, on the operands of a product.

    cusparselt           torch._cslt_sparse_mm to bfloat16, the algorithm it takes by default
    cusparselt-best      the fastest of its algorithms whose result is right
    torchao-cutlass      torchao's rowwise_scaled_linear_sparse_cutlass_f8f8, e4m3 alone

cuSPARSELt multiplies by the scales of A's rows (its alpha) and has none for the columns of b. Those
are put into its result before that is compared, which is not timed. torchao's stores (A b).T only;
of the others it gives a view, for which it is not charged a copy. Compressing A is not timed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from scripts.bench.matmul_peers import Contender, fastest, tried
from sparsetrain import ops
from sparsetrain.bench.cusparselt import Accept
from sparsetrain.bench.products8 import E4M3, Quantized
from sparsetrain.bench.timing import Clock
from sparsetrain.bench.torchao_fp8 import load_torchao

_CUSPARSELT = ("cusparselt", "cusparselt-best")
TORCHAO = "torchao-cutlass"
SPARSE_PEERS8 = {E4M3: (*_CUSPARSELT, TORCHAO), torch.int8: _CUSPARSELT}
"""What `peers=` chooses from, with dtype=fp8 and dtype=int8."""


def usable_peers8(
    narrow: Quantized, wanted: tuple[str, ...], accept: Accept, clock: Clock
) -> tuple[dict[str, Contender], dict[str, str]]:
    """The peers wanted whose result on the product is right, and why the others are not here."""
    return tried(wanted, lambda name: _make(name, narrow, accept, clock), accept)


def _make(name: str, narrow: Quantized, accept: Accept, clock: Clock) -> Contender:
    if name == TORCHAO:
        return _torchao(narrow)
    a = torch.ops.aten._cslt_compress(_pruned(narrow))
    scales_NM = narrow.scales_b if narrow.problem.transpose_out else narrow.scales_b.T

    def whole(result: Tensor) -> Tensor:
        return result * scales_NM

    if name == "cusparselt":
        return Contender(_cusparselt_call(a, narrow, 0), "algorithm 0", whole)
    call = partial(_cusparselt_call, a, narrow)
    return fastest(call, accept, clock, whole)


def _cusparselt_call(a: Tensor, narrow: Quantized, algorithm: int) -> Callable[[], Tensor]:
    return partial(
        torch.ops.aten._cslt_sparse_mm,
        a,
        narrow.b.T,
        alpha=narrow.scales.flatten(),
        out_dtype=torch.bfloat16,
        transpose_result=narrow.problem.transpose_out,
        alg_id=algorithm,
    )


def _torchao(narrow: Quantized) -> Contender:
    torchao = load_torchao("torchao.ops")
    values, meta = torchao.to_sparse_semi_structured_cutlass_sm9x_f8(_pruned(narrow))
    call = partial(
        torchao.rowwise_scaled_linear_sparse_cutlass_f8f8,
        narrow.b,
        narrow.scales_b.flatten(),
        values,
        meta,
        narrow.scales.flatten(),
        None,
        torch.bfloat16,
    )
    return Contender(call if narrow.problem.transpose_out else lambda: call().T)


def _pruned(narrow: Quantized) -> Tensor:
    """A [M, K0] in 8 bits with its zeros, which both compress."""
    return ops.unpack24(narrow.values, narrow.meta)[:, : narrow.b.shape[1]].contiguous()
