"""2:4 masks in plain PyTorch. The definition, the test oracle and the CPU backend.

Dimension key:  R rows   C columns   G groups of four in a row   T 4x4 tiles   P the 90 patterns

A value is ranked by its score: its magnitude in float64, where -0.0 is zero, an infinity counts as
the largest finite float32, and a NaN counts as -1. So `row` and `greedy` pass a NaN over for any
number; `transposable` does unless a pattern without the NaN scores more than 1 less.
"""

from itertools import combinations, product

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsetrain.pattern import Rule

PAIRS: tuple[tuple[int, int], ...] = tuple(combinations(range(4), 2))
"""The six ways to keep two of four: (0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)."""

PATTERN_PAIRS: tuple[tuple[int, int, int, int], ...] = tuple(
    (a, b, c, d)
    for a, b, c, d in product(range(6), repeat=4)
    if all(sum(column in PAIRS[pair] for pair in (a, b, c, d)) == 2 for column in range(4))
)
"""The 90 4x4 masks whose row and column sums are 2, each as the index into PAIRS of its four rows.

The order is lexicographic. Read as a 16-bit number whose highest bit is row 0, column 0, the
patterns descend; an exact tie between two of them goes to the larger number.
"""

PATTERNS = torch.tensor(
    [[[column in PAIRS[i] for column in range(4)] for i in rows] for rows in PATTERN_PAIRS],
    dtype=torch.bool,
    device="cpu",
)
"""The same 90 as a bool tensor [90, 4, 4]."""

_TILES_AT_ONCE = 16384  # five float64 tensors [T, 90] are 59 MB


def score(x: Tensor) -> Tensor:
    """Give the float64 scores by which masks rank values; the module's docstring says how."""
    magnitude = x.double().abs().clamp(max=torch.finfo(torch.float32).max)
    return torch.where(x.isnan(), -1.0, magnitude)


def mask_row24(x_RC: Tensor) -> Tensor:
    """Keep the two largest magnitudes of every four consecutive values of a row.

    Ties keep the lower index. C % 4 == 0. Returns [R, C] bool, exactly two True per group.
    """
    R, C = x_RC.shape
    score_RG4 = score(x_RC).reshape(R, C // 4, 4)
    first_two = score_RG4.sort(dim=-1, descending=True, stable=True).indices[..., :2]
    mask_RG4 = torch.zeros_like(score_RG4, dtype=torch.bool).scatter(-1, first_two, True)
    return mask_RG4.reshape(R, C)


def mask_transposable24(x_RC: Tensor) -> Tensor:
    """Keep two of every four along rows and along columns, with the largest sum of magnitudes.

    Each 4x4 tile takes the best of the 90 PATTERNS. The score of a pattern is (row 0 + row 1) +
    (row 2 + row 3), each row the sum of its two scores, in float64; the first best pattern wins.
    C % 4 == 0; rows are padded with zeros to a multiple of four, and the padding is cut off again:
    the last R % 4 rows may then keep fewer than two along columns.
    Returns [R, C] bool. Exact. The problem: Hubara et al. 2021, arXiv 2102.08124.
    """
    R, C = x_RC.shape
    chunks = [_best_pattern(tiles) for tiles in _tiles(score(x_RC)).split(_TILES_AT_ONCE)]
    return _untile(torch.cat(chunks), R, C)


def mask_greedy24(x_RC: Tensor) -> Tensor:
    """Go through each 4x4 tile by falling magnitude; keep what its row and column have room for.

    What xFormers and PyTorch call `largest_abs_values_greedy`, for comparison: a row or column may
    end with fewer than two. Ties go to the lower row, then the lower column. C % 4 == 0; rows are
    padded as in `mask_transposable24`. Returns [R, C] bool.
    """
    R, C = x_RC.shape
    tiles_T44 = _tiles(score(x_RC))
    order_T16 = tiles_T44.flatten(1).sort(dim=-1, descending=True, stable=True).indices
    mask_T44 = torch.zeros_like(tiles_T44, dtype=torch.bool)
    tile_T = torch.arange(tiles_T44.shape[0], device=x_RC.device)
    for place in range(16):
        row_T, column_T = order_T16[:, place] // 4, order_T16[:, place] % 4
        row_has_room = mask_T44[tile_T, row_T].sum(dim=-1) < 2
        column_has_room = mask_T44[tile_T, :, column_T].sum(dim=-1) < 2
        mask_T44[tile_T, row_T, column_T] = row_has_room & column_has_room
    return _untile(mask_T44, R, C)


def select_mask24(x_RC: Tensor, rule: Rule) -> Tensor:
    """Give the [R, C] bool mask of x by the named rule."""
    if rule == "transposable":
        return mask_transposable24(x_RC)
    if rule == "greedy":
        return mask_greedy24(x_RC)
    assert rule == "row", rule
    return mask_row24(x_RC)


def select24(x_RC: Tensor, rule: Rule) -> Tensor:
    """Give the mask of x by the named rule as bits [R, ceil(C/8)], uint8."""
    return pack_bits(select_mask24(x_RC, rule))


def pack_bits(mask_RC: Tensor) -> Tensor:
    """Pack a bool mask: column c is bit c % 8 (low first) of byte c // 8, unused bits are 0.

    Returns uint8 [R, ceil(C/8)].
    """
    R, C = mask_RC.shape
    bytes_per_row = (C + 7) // 8
    bits = F.pad(mask_RC, (0, 8 * bytes_per_row - C)).reshape(R, bytes_per_row, 8)
    weight = 1 << torch.arange(8, device=mask_RC.device)
    return (bits * weight).sum(dim=-1).to(torch.uint8)


def unpack_bits(mask: Tensor, columns: int) -> Tensor:
    """Undo `pack_bits`: uint8 [R, ceil(columns/8)] to bool [R, columns]."""
    bits = mask[..., None] >> torch.arange(8, device=mask.device, dtype=torch.uint8) & 1
    return bits.flatten(1)[:, :columns].bool()


def _best_pattern(score_T44: Tensor) -> Tensor:
    device = score_T44.device
    low, high = (torch.tensor(index, device=device) for index in zip(*PAIRS, strict=True))
    row_of_pattern = torch.tensor(PATTERN_PAIRS, device=device).unbind(dim=1)
    pair_T46 = score_T44[:, :, low] + score_T44[:, :, high]
    row0, row1, row2, row3 = (pair_T46[:, row, row_of_pattern[row]] for row in range(4))
    total_TP = (row0 + row1) + (row2 + row3)
    return PATTERNS.to(device)[total_TP.argmax(dim=1)]


def _tiles(x_RC: Tensor) -> Tensor:
    R, C = x_RC.shape
    row_tiles, column_tiles = (R + 3) // 4, C // 4
    padded = F.pad(x_RC, (0, 0, 0, 4 * row_tiles - R))
    tiles = padded.reshape(row_tiles, 4, column_tiles, 4).transpose(1, 2)
    return tiles.reshape(row_tiles * column_tiles, 4, 4)


def _untile(tiles_T44: Tensor, rows: int, columns: int) -> Tensor:
    row_tiles, column_tiles = (rows + 3) // 4, columns // 4
    tiles = tiles_T44.reshape(row_tiles, column_tiles, 4, 4).transpose(1, 2)
    return tiles.reshape(4 * row_tiles, columns)[:rows].contiguous()
