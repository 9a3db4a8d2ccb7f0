"""The ops of sparsetrain as candidates, and the comparison with their reference."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from scripts.bench.candidate import Candidate, Layout
from scripts.bench.peers import APPLY, TILE
from sparsetrain import ops
from sparsetrain.reference.masks24 import unpack_bits
from sparsetrain.select import RULES

OPS = (
    "sparsify24",
    "apply24",
    "squared_relu24",
    "squared_relu24_backward",
    "mvue24",
    "select24",
    "mask24",
    "add_mask24_",
    "soft_threshold24",
    "random24",
)
"""What `ops=` chooses from."""

_ACTIVATIONS = ("squared_relu24", "squared_relu24_backward", "mvue24")
_BOTH_WAYS: tuple[Layout, ...] = ("rows", "rows", "columns", "columns")
_SEED = 24
_ROWS = 64  # compared with the reference: one atom of metadata in both orientations


def our_candidates(
    dtype: torch.dtype, packed: torch.dtype, wanted: tuple[str, ...]
) -> list[Candidate]:
    """The candidates of the ops wanted, for a matrix of dtype and values of dtype packed.

    A float32 matrix stands for a master weight, so it has none for activations and gradients.
    """
    skipped = _ACTIVATIONS if dtype == torch.float32 else ()
    return [
        candidate
        for candidate in _all(packed)
        if candidate.name.split()[0] in wanted and candidate.name.split()[0] not in skipped
    ]


def check_against_reference(candidate: Candidate, x: Tensor, results: tuple[Tensor, ...]) -> None:
    """Hold the first rows of the results on x against the plain-PyTorch definition on the CPU.

    Masks and metadata must be equal, values within rounding. Raises ValueError where they are not.
    A peer, which has no layout, has no reference either.
    """
    if not candidate.layout:
        return
    wanted = candidate.results(candidate.inputs(x[:_ROWS].cpu()))
    for place, layout in enumerate(candidate.layout):
        if layout == "skip":
            continue
        got, want = results[place], wanted[place]
        if layout == "rows":
            got = got[:, :1] if got.dim() == 3 else got[:_ROWS]
        elif x.shape[0] > _ROWS:
            first = slice(1) if got.dim() == 3 else (slice(None), slice(_ROWS // 2))
            got, want = got[first], want[first]
        if not _equal(got.cpu(), want):
            raise ValueError(
                f"{candidate.name}: result {place} on {tuple(x.shape)} {x.dtype} differs from its"
                " reference, so it is not timed; run the tests on this device: scripts/gpu_check"
            )


def _all(packed: torch.dtype) -> list[Candidate]:
    packs = (1, "x"), (2, "values"), (2, "meta")
    both = (*_BOTH_WAYS, "rows")
    rules = [
        Candidate(
            f"sparsify24 {rule}",
            packs,
            lambda x: (x,),
            partial(_sparsify, rule=rule, packed=packed),
            both,
            lambda results, x: unpack_bits(results[4], x.shape[1]),
            TILE,
        )
        for rule in RULES
    ]
    flips = Candidate(
        "sparsify24 and flips",
        (*packs, (1, "mask")),
        lambda x: (x, ops.select24(x, "row")),
        lambda x, previous: ops.sparsify24(x, "transposable", packed, previous),
        both,
        peer=TILE,
    )
    apply = Candidate(
        "apply24",
        (*packs, (1, "mask")),
        lambda x: (x, ops.select24(x, "transposable")),
        lambda x, mask: ops.apply24(x, mask, packed),
        _BOTH_WAYS,
        peer=APPLY,
    )
    return [*rules, flips, apply, *_activations(), *_dense()]


def _activations() -> list[Candidate]:
    return [
        Candidate(
            "squared_relu24",
            ((1, "x"), (2, "values"), (2, "meta")),
            lambda z: (z,),
            lambda z: ops.squared_relu24(z, "transposable"),
            _BOTH_WAYS,
        ),
        Candidate(
            "squared_relu24_backward",
            ((1, "x"), (3, "values"), (1, "meta")),
            lambda z: (z.roll(1, 1), *ops.squared_relu24(z, "transposable")),
            partial(_backward, rule="transposable"),
            ("rows", "columns", "skip"),
        ),
        Candidate(
            "mvue24",
            ((1, "x"), (1, "values"), (1, "meta")),
            lambda x: (x, _seed(x)),
            ops.mvue24,
            ("columns", "columns"),
        ),
    ]


def _dense() -> list[Candidate]:
    return [
        Candidate(
            "select24 transposable",
            ((1, "x"), (1, "mask")),
            lambda x: (x,),
            lambda x: ops.select24(x, "transposable"),
            ("rows",),
            lambda results, x: unpack_bits(results[0], x.shape[1]),
        ),
        Candidate(
            "mask24",
            ((2, "x"), (1, "mask")),
            lambda x: (x, ops.select24(x, "transposable")),
            lambda x, mask: ops.mask24(x, mask, 1.0, 0.5),
            ("rows",),
        ),
        Candidate(
            "add_mask24_",
            ((3, "x"), (1, "mask")),
            lambda x: (x.clone(), x, ops.select24(x, "transposable")),
            lambda out, x, mask: ops.add_mask24_(out, x, mask, 0.0, 0.5),
            ("rows",),
        ),
        Candidate(
            "soft_threshold24",
            ((2, "x"),),
            lambda x: (x, torch.full((1,), 1.25, device=x.device)),
            ops.soft_threshold24,
            ("rows",),
        ),
        Candidate(
            "random24",
            ((1, "mask"),),
            lambda x: (*x.shape, _seed(x)),
            ops.random24,
            ("rows",),
        ),
    ]


def _sparsify(x: Tensor, rule, packed: torch.dtype) -> tuple[Tensor, ...]:
    return ops.sparsify24(x, rule, packed)


def _backward(
    grad: Tensor, values: Tensor, meta: Tensor, values_t: Tensor, meta_t: Tensor, rule
) -> tuple[Tensor, ...]:
    return ops.squared_relu24_backward(grad, values, meta, values_t, meta_t, rule)


def _seed(x: Tensor) -> Tensor:
    return torch.full((1,), _SEED, dtype=torch.int64, device=x.device)


def _equal(got: Tensor, want: Tensor) -> bool:
    if got.shape != want.shape or got.dtype != want.dtype:
        return False
    if not want.is_floating_point() or want.numel() == 0:
        return torch.equal(got, want)
    rounding = max(2 * torch.finfo(want.dtype).eps, 1e-5) * want.double().abs().max()
    return bool(((got.double() - want.double()).abs() <= rounding).all())
