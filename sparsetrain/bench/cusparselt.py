"""A 2:4 product in cuSPARSELt, through PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from sparsetrain.bench.products import Product
from sparsetrain.bench.refusal import first_line

Accept = Callable[[Tensor], str]
"""Why a result is not to be trusted, '' where it is."""

REFUSALS = (RuntimeError, ValueError, AttributeError)
"""How it refuses a device, a shape or a dtype; AttributeError: an op that this torch has not."""


def usable_cusparselt(product: Product, accept: Accept) -> Callable[[], Tensor] | str:
    """A call with the algorithm that it takes by default, or why there is none."""
    try:
        call = cusparselt_call(compressed(product), product)
        reason = accept(call())
    except REFUSALS as error:
        return first_line(error)
    return reason or call


def compressed(product: Product) -> Tensor:
    """A as cuSPARSELt reads it."""
    return torch.ops.aten._cslt_compress(product.a.contiguous())


def cusparselt_call(
    a: Tensor, product: Product, algorithm: int = 0, split_k: int = 1, mode: int = -1
) -> Callable[[], Tensor]:
    """The product with `compressed(product)`, by one of cuSPARSELt's algorithms."""
    return partial(
        torch.ops.aten._cslt_sparse_mm,
        a,
        product.b,
        transpose_result=product.problem.transpose_out,
        alg_id=algorithm,
        split_k=split_k,
        split_k_mode=mode,
    )
