"""select24: choose a 2:4 mask."""

import torch
from torch import Tensor

from sparsetrain.ops.checks import check_cuda, check_groups, check_rule
from sparsetrain.ops.register import register
from sparsetrain.reference.masks24 import select24 as reference
from sparsetrain.select import Rule


def _check(x: Tensor, rule: str) -> None:
    check_groups("x", x)
    check_cuda("x", x)
    check_rule(rule)


_op = register(
    "select24(Tensor x, str rule) -> Tensor",
    check=_check,
    fake=lambda x, rule: x.new_empty(x.shape[0], (x.shape[1] + 7) // 8, dtype=torch.uint8),
    kernel=reference,
)


def select24(x: Tensor, rule: Rule) -> Tensor:
    """Choose which values of x a 2:4 mask keeps, by magnitude.

    x      [R, C], C % 4 == 0
    rule   "transposable": two of every four along rows and along columns, of the 90 such masks of
           each 4x4 tile the one with the largest sum of magnitudes, "transposable_l2" of squares,
           by integer scores that keep 99.9 % of the best or more; "row": the two largest of every
           four in a row; "greedy": the tile greedy of xFormers and PyTorch, for comparison, which
           may keep fewer than two

    Returns the mask, uint8 [R, ceil(C/8)]: column c is bit c % 8 (low first) of byte c // 8.
    Scores, ties, NaN and infinities: reference/masks24.py. Kernels for CUDA take float32, bfloat16
    and float16. Raises ValueError for what it does not take.
    """
    return _op(x, rule)
