"""What the tests of the CUDA kernels share: matrices, and comparison with the reference.

The oracle is the plain-PyTorch definition on the same device. Selection, packing and sampling are
compared bit for bit, all bytes that a kernel returns, padding too.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from ops_checks import assert_as_accurate_as_torch
from torch import Tensor

from sparsetrain import native, ops
from sparsetrain.reference import (
    add_mask24_,
    apply24,
    flips24,
    mask24,
    masks24,
    mvue24,
    pack_into24,
    random24,
    soft_threshold24,
    sparsify24,
    squared_relu24,
)
from sparsetrain.reference.pack24 import padded_rows
from sparsetrain.select import Rule

DEVICE = "cuda"

library = native.load()
needs_kernels = pytest.mark.skipif(
    library.path is None, reason=f"no kernel library: {library.reason} {library.fix}".rstrip()
)


def _sum(out: Tensor, *rest: Any) -> Tensor:
    """Give what add_mask24_ would make of out, and leave out as it is."""
    out = out.clone()
    add_mask24_.add_mask24_(out, *rest)
    return out


def _forms(x: Tensor, mask: Tensor | None, rule: Rule, *forms: Tensor | None) -> ops.Forms24:
    """Give what pack_into24 would make of forms, and leave forms as they are."""
    written = ops.Forms24(*(None if form is None else form.clone() for form in forms))
    pack_into24.pack_into24(x, mask, rule, written)
    return written


REFERENCE = {
    "add_mask24_": _sum,
    "apply24": apply24.apply24,
    "flips24": flips24.flips24,
    "mask24": mask24.mask24,
    "mvue24": mvue24.mvue24,
    "pack_into24": _forms,
    "random24": random24.random24,
    "select24": masks24.select24,
    "soft_threshold24": soft_threshold24.soft_threshold24,
    "sparsify24": sparsify24.sparsify24,
    "squared_relu24": squared_relu24.squared_relu24,
    # Without the rule, which only says what a kernel may take from where.
    "squared_relu24_backward": lambda *given: squared_relu24.squared_relu24_backward(*given[:-1]),
}
"""The definition of every op that has a kernel; both take all arguments, in order."""

KINDS = ["gaussian", "ties", "post-ReLU", "heavy-tailed", "zeros", "tiny", "huge", "inf", "nan"]


def matrix(
    rows: int, columns: int, dtype: torch.dtype, kind: str = "gaussian", seed: int = 0
) -> Tensor:
    """Give a matrix of a kind; the last five of KINDS are hostile."""
    generator = torch.Generator(DEVICE).manual_seed(seed)

    def normal() -> Tensor:
        return torch.randn(rows, columns, generator=generator, device=DEVICE)

    x, finfo = normal(), torch.finfo(dtype)
    planted = {
        "zeros": [0.0, -0.0],
        "tiny": [0.0, -0.0, finfo.smallest_normal, finfo.smallest_normal / 2, 2.0**-100, 2.0**-113],
        "huge": [finfo.max, -finfo.max, finfo.max / 2, 2.0**99, 2.0**100, -(2.0**101), 1.0],
        "inf": [float("inf"), -float("inf"), finfo.max],
        "nan": [float("nan"), -float("nan"), float("inf"), 0.0],
    }
    if kind == "ties":
        x = (1.5 * x).round()
    elif kind == "post-ReLU":
        x = x.relu().square()
    elif kind == "heavy-tailed":
        x = x / normal().abs() ** 3
    elif kind in planted:
        # All, half or an eighth of a row of tiles.
        values = torch.tensor(planted[kind], device=DEVICE, dtype=torch.float64).to(dtype)
        chosen = torch.randint(len(values), x.shape, generator=generator, device=DEVICE)
        share = torch.tensor([1.0, 0.5, 0.125], device=DEVICE).repeat_interleave(4)
        share = share.repeat(rows)[:rows, None]
        at = torch.rand(x.shape, generator=generator, device=DEVICE) < share
        x = x * finfo.smallest_normal if kind == "tiny" else x
        return torch.where(at, values[chosen], x.to(dtype))
    else:
        assert kind == "gaussian", kind
    return x.to(dtype)


def arguments(name: str, x: Tensor, rule: Rule = "transposable") -> tuple:
    """Give arguments of an op for a matrix; its mask and its h are made by the reference."""
    rows, columns = x.shape
    seed = torch.tensor([2**40 + 7], device=x.device)

    def mask(of: Tensor) -> Tensor:
        return masks24.select24(of, rule)

    if name == "add_mask24_":
        scale = torch.tensor([1.483], device=x.device)
        return x.flip(1).contiguous(), x, mask(x), 0.25, 0.3, scale
    rests = {"apply24": (None,), "mask24": (1.0, 0.3)}
    if name in rests:
        rest = rests[name]
        return x, masks24.select24(x, "greedy" if rule == "row" else rule), *rest
    if name == "flips24":
        return mask(x), mask(x.flip(0))
    if name in ("select24", "squared_relu24"):
        return x, rule
    if name == "sparsify24":
        return x, rule, None, mask(x.flip(0))
    if name == "pack_into24":
        forms = ops.empty_forms24(x, rows=True, dense=True)
        return x, None, rule, *forms
    if name == "squared_relu24_backward":
        return x.flip(1), *squared_relu24.squared_relu24(x, rule), rule
    if name == "random24":
        return rows, columns, seed
    scale = torch.tensor([1.483], device=x.device)
    return x, scale if name == "soft_threshold24" else seed


@contextmanager
def poisoned() -> Iterator[None]:
    """Fill new tensors with NaN, integers with their largest: a byte not written shows."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def leaves(result: Any) -> tuple[Tensor, ...]:
    """The tensors of what an op gave."""
    result = (result,) if isinstance(result, Tensor) else result
    return tuple(tensor for tensor in result if tensor is not None)


def assert_same(got: Tensor, expected: Tensor) -> None:
    """Bit for bit, but for the payload of a NaN."""
    assert got.dtype == expected.dtype
    assert got.device == expected.device
    assert got.shape == expected.shape
    if got.is_floating_point():
        same = bits(got) == bits(expected)
        same |= got.isnan() & expected.isnan()
    else:
        same = got == expected
    if not same.all():
        at = (~same).nonzero()
        first = tuple(at[0].tolist())
        raise AssertionError(
            f"{len(at)} of {got.numel()} differ, first at {first} of {tuple(got.shape)}:"
            f" {got[first].item()} should be {expected[first].item()}"
        )


def assert_within_one_step(got: Tensor, expected: Tensor) -> None:
    """Equal, or the neighbouring number of the dtype; NaN where NaN is. float32: equal."""
    assert got.shape == expected.shape
    if got.dtype == torch.float32:
        return assert_same(got, expected)
    ordered = []
    for x in (got, expected):
        number = bits(x.nan_to_num(0.0, float("inf"), -float("inf"))).int()
        ordered.append(torch.where(number < 0, -(number & 0x7FFF), number))
    step = ((ordered[0] - ordered[1]).abs() <= 1) & (got.isnan() == expected.isnan())
    return assert_same(torch.where(step, expected, got), expected)


def bits(x: Tensor) -> Tensor:
    return x.view(torch.int16 if x.element_size() == 2 else torch.int32)


def call(name: str, *given: Any) -> tuple[Tensor, ...]:
    """Call an op. Nothing given changes: what writes to it gets copies, or new memory."""
    if name == "add_mask24_":
        given = given[0].clone(), *given[1:]
    if name == "pack_into24":
        new = (None if form is None else torch.empty_like(form) for form in given[3:])
        given = *given[:3], *new
    return leaves(getattr(ops, name)(*given))


def check(name: str, *given: Any) -> tuple[Tensor, ...]:
    """Call an op in poisoned memory and compare with its reference. Returns the results."""
    with poisoned():
        got = call(name, *given)
    expected = leaves(REFERENCE[name](*given))
    assert all(one.is_contiguous() for one in got)
    if name == "squared_relu24_backward":
        check_gradient(got, expected, *given)
    else:
        for one, other in zip(got, expected, strict=True):
            assert_same(one, other)
    return got


def check_gradient(got: tuple[Tensor, ...], expected: tuple[Tensor, ...], *given: Any) -> None:
    """Hold values and values_t to one step, and column_sums to float64 where nothing overflows."""
    for one, other in zip(got[:2], expected[:2], strict=True):
        assert_within_one_step(one, other)
    assert got[2].shape == expected[2].shape
    grad_h, *rest = [x.double() if is_float(x) else x for x in given]
    exact = REFERENCE["squared_relu24_backward"](grad_h, *rest)[2]
    small = REFERENCE["squared_relu24_backward"](grad_h.abs(), *rest)[2] < 1e37
    assert got[2][exact.isnan()].isnan().all()
    assert_as_accurate_as_torch(got[2][small], expected[2][small], exact[small])


def is_float(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


def rows_of(packed: Sequence[Tensor], start: int, stop: int) -> tuple[Tensor, ...]:
    """Give the packed form of rows start to stop - 1: start is a multiple of 128, stop too or R."""
    values, meta, values_t, meta_t = packed
    end = padded_rows(stop)
    return (
        values[start:stop],
        meta[:, start // 64 : (stop + 63) // 64],
        values_t[:, start // 2 : end // 2],
        meta_t[start // 64 : end // 64],
    )
