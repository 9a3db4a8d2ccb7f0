"""What PyTorch and xFormers have for a 2:4 product, on the operands of a product as they lie.

    cusparselt           torch._cslt_sparse_mm with the algorithm it takes by default
    cusparselt-best      the fastest of its algorithms whose result is right; some are not
                         (pytorch/pytorch#155333)
    cusparselt-search    what cuSPARSELt's own search picks, split-K included: slow to find
    torch-cutlass        torch._sparse_semi_structured_mm, kernels for compute capability 8.x
    xformers             xformers.ops.sp24 with its CUTLASS kernels

The last two store A b only; of a transposed result they give a view, for which they are not charged
a copy. Compressing A is not timed, of no candidate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from scripts.bench.peers import GREEDY, load_xformers
from sparsetrain.bench.cusparselt import REFUSALS, Accept, compressed, cusparselt_call
from sparsetrain.bench.products import Product
from sparsetrain.bench.refusal import first_line
from sparsetrain.bench.timing import Clock
from sparsetrain.export.layouts24 import to_aten_cutlass

DEFAULT_PEERS = ("cusparselt", "cusparselt-best", "torch-cutlass", "xformers")
PEERS = (*DEFAULT_PEERS, "cusparselt-search")
"""What `peers=` chooses from."""

PEERS8 = {torch.float8_e4m3fn: ("fp8-row", "fp8-tensor"), torch.int8: ("int8",)}
"""Dense products in 8 bits, with dtype=fp8 and dtype=int8 (matmul8.py); 2:4 ones: matmul8_peers."""

_ALGORITHMS = 70  # cuSPARSELt numbers them from 0 and does not say how many; 0.8 has 21
_REFUSED_IN_A_ROW = 4
_TRIALS = 3


@dataclass(frozen=True)
class Contender:
    """A call that gives the product's result, and which of its ways it takes.

    rest: makes the product's result of the call's, where that lacks something; not timed.
    """

    run: Callable[[], Tensor]
    config: str = ""
    rest: Callable[[Tensor], Tensor] | None = None

    def result(self) -> Tensor:
        """The product's, whole."""
        return self.run() if self.rest is None else self.rest(self.run())


def usable_peers(
    product: Product, wanted: tuple[str, ...], accept: Accept, clock: Clock
) -> tuple[dict[str, Contender], dict[str, str]]:
    """The peers wanted whose result on the product is right, and why the others are not here."""
    return tried(wanted, lambda name: _make(name, product, accept, clock), accept)


def tried(
    wanted: tuple[str, ...], make: Callable[[str], Contender], accept: Accept
) -> tuple[dict[str, Contender], dict[str, str]]:
    """Those that `make` gives whose result is right, and why the others are not here."""
    usable, skipped = {}, {}
    for name in wanted:
        try:
            peer = make(name)
            reason = accept(peer.result())
        except REFUSALS as error:
            skipped[name] = first_line(error)
        else:
            if reason:
                skipped[name] = reason
            else:
                usable[name] = peer
    return usable, skipped


def _make(name: str, product: Product, accept: Accept, clock: Clock) -> Contender:
    if name == "torch-cutlass":
        return _torch_cutlass(product)
    if name == "xformers":
        return _xformers(product)
    a = compressed(product)
    if name == "cusparselt":
        return Contender(cusparselt_call(a, product), "algorithm 0")
    if name == "cusparselt-best":
        return fastest(partial(cusparselt_call, a, product), accept, clock)
    return _searched(a, product)


def fastest(
    call: Callable[[int], Callable[[], Tensor]],
    accept: Accept,
    clock: Clock,
    rest: Callable[[Tensor], Tensor] | None = None,
) -> Contender:
    """The fastest of cuSPARSELt's algorithms whose result is right. call: makes the call of
    an algorithm; rest: as in Contender. Raises ValueError if no algorithm gives a right result."""
    times: list[tuple[float, int]] = []
    refused = 0
    for algorithm in range(_ALGORITHMS):
        run = call(algorithm)
        try:
            run()
        except RuntimeError:
            refused += 1
            if refused == _REFUSED_IN_A_ROW:
                break
            continue
        refused = 0
        times.append((min(clock(run) for _ in range(_TRIALS)), algorithm))
    for _, algorithm in sorted(times):
        found = Contender(call(algorithm), f"algorithm {algorithm} of {len(times)}", rest)
        if not accept(found.result()):
            return found
    raise ValueError(f"none of {len(times)} algorithms gives the right result")


def _searched(a: Tensor, product: Product) -> Contender:
    search = torch._C._cusparselt.mm_search  # type: ignore[attr-defined]
    found = search(a, product.b, None, None, None, product.problem.transpose_out)
    algorithm, split_k, mode = found[:3]
    call = cusparselt_call(a, product, algorithm, split_k, mode)
    return Contender(call, f"algorithm {algorithm}, split-K {split_k}, mode {mode}")


def _torch_cutlass(product: Product) -> Contender:
    M, K = product.problem.M, product.problem.K
    meta = to_aten_cutlass(product.meta, M, K)
    call = partial(torch.ops.aten._sparse_semi_structured_mm, product.values, meta, product.b)
    return Contender(_viewed(call, product))


def _xformers(product: Product) -> Contender:
    sparsify = load_xformers()
    if isinstance(sparsify, str):
        raise ValueError(sparsify)
    packed = sparsify(product.a.contiguous(), algo=GREEDY, backend="cutlass")
    return Contender(_viewed(lambda: packed @ product.b, product))


def _viewed(call: Callable[[], Tensor], product: Product) -> Callable[[], Tensor]:
    return (lambda: call().T) if product.problem.transpose_out else call
