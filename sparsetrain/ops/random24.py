"""random24: a random 2:4 mask."""

import torch
from torch import Tensor

from sparsetrain.ops.checks import check_scalar, check_size
from sparsetrain.ops.register import register
from sparsetrain.reference.random24 import random24 as reference


def _check(rows: int, columns: int, seed: Tensor) -> None:
    check_size(rows, columns)
    check_scalar("seed", seed, torch.int64)


_op = register(
    "random24(int rows, int columns, Tensor seed) -> Tensor",
    check=_check,
    fake=lambda rows, columns, seed: seed.new_empty(rows, (columns + 7) // 8, dtype=torch.uint8),
    kernel=reference,
)


def random24(rows: int, columns: int, seed: Tensor) -> Tensor:
    """Draw a mask that keeps two of every four along rows and along columns, by chance alone.

    rows, columns   R and C, C % 4 == 0; the mask of R % 4 last rows may keep fewer along columns
    seed            int64, one element, on the device of the mask, so that a CUDA graph can replay
                    with another

    Every 4x4 tile takes one of the 90 masks with two per row and column, all equally likely, so
    every value is kept with probability 1/2. Returns uint8 [R, ceil(C/8)], as select24 does. With
    it, 2:4 dropout keeps the expectation of x and runs on the same sparse products:

        mask = random24(R, C, torch.randint(2**62, (1,), device=x.device))
        x = mask24(x, mask, kept=2.0)

    The same arguments give the same mask (reference/random24.py). Under torch.compile another size
    compiles anew. Raises ValueError for what it does not take.
    """
    return _op(rows, columns, seed)
