"""What PyTorch and xFormers have for the same job, and the copy to compare with.

Their fast algorithm `largest_abs_values_greedy` is called: the default one ranks by signed value.
They take 16-bit matrices, so a float32 weight is cast first, as it would be in training.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scripts.bench.candidate import Candidate
from sparsetrain.bench.refusal import first_line

CLONE = "clone"
TILE = "torch tile greedy"
APPLY = "torch apply"
COMPRESS = "torch _cslt_compress"
XFORMERS = "xformers sparsify24"

GREEDY = "largest_abs_values_greedy"
_PACKS = (1, "x"), (2, "values"), (2, "meta")


def clone() -> Candidate:
    """Read the matrix and write it: what the others are compared with."""
    return Candidate(CLONE, ((2, "x"),), lambda x: (x,), lambda x: x.clone())


def usable_peers(x: Tensor, packed: torch.dtype) -> tuple[list[Candidate], dict[str, str]]:
    """The peers that run on x, each tried once, and why the others do not."""
    usable, skipped = [], {}
    candidates = _of_torch(packed)
    sparsify = load_xformers()
    if isinstance(sparsify, str):
        skipped[XFORMERS] = sparsify
    else:
        candidates.append(_of_xformers(sparsify, packed))
    for candidate in candidates:
        try:
            candidate.results(candidate.inputs(x))
        except (RuntimeError, ValueError) as error:  # how the peers refuse a device or a shape
            skipped[candidate.name] = first_line(error)
        else:
            usable.append(candidate)
    return usable, skipped


def _of_torch(packed: torch.dtype) -> list[Candidate]:
    def tile(x: Tensor) -> tuple[Tensor, ...]:
        return torch.ops.aten._sparse_semi_structured_tile(x.to(packed), GREEDY, use_cutlass=True)

    return [
        Candidate(TILE, _PACKS, lambda x: (x,), tile, mask=_mask_of_tile),
        Candidate(
            APPLY,
            ((1, "x"), (2, "values"), (1, "mask")),
            lambda x: (x, tile(x)[4]),
            lambda x, threads: torch.ops.aten._sparse_semi_structured_apply(x.to(packed), threads),
        ),
        # Not captured: cuSPARSELt makes a plan and a workspace in every call.
        Candidate(
            COMPRESS,
            ((1, "x"), (1, "values"), (1, "meta")),
            lambda x: (_masked(x.to(packed), tile(x)[4]),),
            torch.ops.aten._cslt_compress,
            graph=False,
        ),
    ]


def _of_xformers(sparsify: Callable[..., Any], packed: torch.dtype) -> Candidate:
    def call(x: Tensor) -> Any:
        return sparsify(x.to(packed), algo=GREEDY, backend="cutlass")

    return Candidate(XFORMERS, _PACKS, lambda x: (x,), call, graph=False)


def load_xformers() -> Callable[..., Any] | str:
    """xFormers' `sparsify24`, or why there is none."""
    # xFormers logs on import what the reason here says.
    logging.getLogger("xformers").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside xFormers
            module = importlib.import_module("xformers.ops.sp24")
    except (ImportError, OSError, RuntimeError) as error:
        return first_line(error)
    return module.sparsify24


def _masked(x: Tensor, threads: Tensor) -> Tensor:
    return torch.ops.aten._sparse_semi_structured_apply_dense(x, threads)


def _mask_of_tile(results: tuple[Tensor, ...], x: Tensor) -> Tensor:
    return _masked(torch.ones_like(x, dtype=results[0].dtype), results[4]) != 0
