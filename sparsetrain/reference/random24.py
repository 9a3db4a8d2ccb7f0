"""Random transposable 2:4 masks, for 2:4 dropout.

Dimension key:  R rows   C columns   T 4x4 tiles
"""

from torch import Tensor

from sparsetrain.reference.masks24 import PATTERNS, pack_bits, untile24
from sparsetrain.reference.philox import DROPOUT_STREAM, random_words


def random24(rows: int, columns: int, seed: Tensor) -> Tensor:
    """Draw one of the 90 PATTERNS for each 4x4 tile, as bits [R, ceil(C/8)].

    seed: int64, one element; its low and high 32 bits are the key of Philox. The tile in tile row i
    and tile column j takes pattern (word * 90) >> 32, where word is word j % 4 of the counter
    (j // 4, i, 0, 1); so each has a probability of 1/90 to within 2^-32.
    """
    word_T = random_words(seed, (rows + 3) // 4, columns // 4, DROPOUT_STREAM).flatten()
    mask_T44 = PATTERNS.to(seed.device)[word_T * PATTERNS.shape[0] >> 32]
    return pack_bits(untile24(mask_T44, rows, columns))
