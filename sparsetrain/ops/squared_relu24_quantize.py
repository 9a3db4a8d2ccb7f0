"""squared_relu24_quantize: relu(z)² made 2:4 and packed, its rows in 8 bits with scales."""

from typing import Any

import torch
from torch import Tensor

from sparsetrain.ops.checks import check_cuda, check_groups, check_rule
from sparsetrain.ops.pack_into24 import empty_forms24
from sparsetrain.ops.quantize24 import empty_scaled24
from sparsetrain.ops.register import register
from sparsetrain.ops.scale_checks import check_quantizing
from sparsetrain.reference.squared_relu24_quantize import squared_relu24_quantize as reference
from sparsetrain.select import Rule

ONE_MASK: tuple[Rule, ...] = ("transposable", "transposable_l2")
"""Rules with one mask, exactly 2:4 in both orientations: of them the columns hold all of h."""


def _check(z: Tensor, rule: str, dtype: torch.dtype, power_of_two: bool) -> None:
    check_groups("z", z)
    check_cuda("z", z)
    check_rule(rule)
    check_quantizing("squared_relu24_quantize", z, dtype, "row")


def _fake(
    z: Tensor, rule: str, dtype: torch.dtype, *_: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    columns = empty_forms24(z, rows=False, columns=True)
    assert columns.values_t is not None, "asked for"
    assert columns.meta_t is not None, "asked for"
    rows = empty_scaled24(z, z.shape[0], z.shape[1], dtype, "row")
    return *rows, columns.values_t, columns.meta_t


_op = register(
    "squared_relu24_quantize(Tensor z, str rule, ScalarType dtype, bool power_of_two=False)"
    " -> (Tensor values, Tensor meta, Tensor scales, Tensor values_t, Tensor meta_t)",
    check=_check,
    fake=_fake,
    kernel=reference,
)


def squared_relu24_quantize(
    z: Tensor, rule: Rule, dtype: torch.dtype, power_of_two: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Give `squared_relu24(z, rule)` with its rows narrowed as `narrow24` does.

    z              [R, C], C % 4 == 0: R tokens, C features; the transpose is padded to R128
    rule           as in sparsify24
    dtype          torch.float8_e4m3fn or torch.int8
    power_of_two   as in `quantize`

    Returns values [R, C/2] in dtype, meta uint8 [ceil(C/128), ceil(R/64), 1024], scales float32
    [R, 1] of the rows of h, values_t [C, R128/2] in z's dtype and meta_t uint8
    [R128/64, ceil(C/64), 512] of its columns. By a rule of ONE_MASK, meta and the columns are all
    that squared_relu24_backward_quantize needs. Kernels for CUDA take float32, bfloat16 and
    float16; one pass is what `in_one_pass` says.
    Raises ValueError for what it does not take.
    """
    return _op(z, rule, dtype, power_of_two)


def in_one_pass(z: Tensor, rule: Rule, dtype: torch.dtype) -> bool:
    """Whether the kernel reads z once, and the one of its gradient grad_h: float8_e4m3fn from 16
    bits, up to 8192 columns, a multiple of 16."""
    return (
        rule in ONE_MASK
        and dtype == torch.float8_e4m3fn
        and z.dtype in (torch.bfloat16, torch.float16)
        and z.shape[1] % 16 == 0
        and z.shape[1] <= 8192
    )
