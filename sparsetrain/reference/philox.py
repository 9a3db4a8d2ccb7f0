"""Philox4x32-10, a counter-based random number generator, in int64 tensor arithmetic.

Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

import torch
from torch import Tensor

_LOW32 = 0xFFFFFFFF
_MULTIPLIER_0, _MULTIPLIER_1 = 0xD2511F53, 0xCD9E8D57
_WEYL_0, _WEYL_1 = 0x9E3779B9, 0xBB67AE85

# The last word of the counter: ops that are given one seed draw different numbers.
MVUE_STREAM, DROPOUT_STREAM = 0, 1


def philox4x32(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Give the four 32-bit words of each counter under a key, ten rounds.

    Every tensor is int64 with values in [0, 2^32), and they broadcast.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = _multiply(_MULTIPLIER_0, c0)
        high1, low1 = _multiply(_MULTIPLIER_1, c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL_0) & _LOW32, (k1 + _WEYL_1) & _LOW32
    return c0, c1, c2, c3


def random_words(seed: Tensor, rows: int, columns: int, stream: int) -> Tensor:
    """Give a word for each place of a matrix: int64 [rows, columns], values in [0, 2^32).

    seed: int64, one element; its low and high 32 bits are the key. Row r, column c is word c % 4 of
    the counter (c // 4, r, 0, stream), so that four neighbours share a draw.
    """
    key = seed.reshape(())
    block = torch.arange((columns + 3) // 4, device=seed.device)[None, :]
    row = torch.arange(rows, device=seed.device)[:, None]
    zero = torch.zeros_like(block)
    words = philox4x32(
        (block, row, zero, torch.full_like(block, stream)), (key & _LOW32, key >> 32 & _LOW32)
    )
    return torch.stack(words, dim=-1).flatten(1)[:, :columns]


def uniform24(word: Tensor) -> Tensor:
    """Turn words into float32 numbers in [0, 1), multiples of 2^-24: (word >> 8) * 2^-24."""
    return (word >> 8).to(torch.float32) * 2.0**-24


def _multiply(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """Give the high and the low 32 bits of the product of two 32-bit numbers."""
    high = ((a >> 16) * b + ((a & 0xFFFF) * b >> 16)) >> 16
    return high, a * b & _LOW32  # the int64 product wraps, its low half is right
