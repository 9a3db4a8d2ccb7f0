"""2:4 masks in plain PyTorch. The definition, the test oracle and the CPU backend.

Dimension key:  R rows   C columns   G groups of four in a row   T 4x4 tiles   P the 90 patterns

`row` and `greedy` compare magnitudes as they are: -0.0 is zero, and a NaN counts as -1, so that it
is passed over for any number.

`transposable` and `transposable_l2` compare sums, of magnitudes or of their squares. To make every
sum exact on every device, whatever the order of its terms, a tile's values become integer scores
from 0 to 8191, which its largest value has:

    magnitude   |x| in float32; a NaN counts as 0, and more than 2^100 as 2^100
    scale       8191 / max(largest magnitude of the tile, 2^-100), rounded to float32
    score       magnitude * scale, the exact product rounded to an integer, half to even
    squared     u = magnitude * scale, rounded to float32; t = u * (1/8191 in float32), rounded to
                float32; score = u * t, the exact product rounded to an integer, half to even

The best pattern by scores keeps at least 99.9 % of what the best by exact values keeps: the eight
scores of each are off by half a step, together by eight of the 8191 steps of the largest value,
which the best pattern is worth at least. This holds where the largest magnitude of a tile is from
2^-100 to 2^100. A NaN is kept only where that costs no score; beside an infinity, magnitudes below
2^86 count as 0.
"""

from collections.abc import Callable
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsetrain.select import Rule

_ROWS = ((1, 1, 0, 0), (1, 0, 1, 0), (1, 0, 0, 1), (0, 1, 1, 0), (0, 1, 0, 1), (0, 0, 1, 1))

PATTERNS = torch.tensor(
    [
        rows
        for rows in product(_ROWS, repeat=4)
        if all(sum(c) == 2 for c in zip(*rows, strict=True))
    ],
    dtype=torch.bool,
    device="cpu",
)
"""The 90 4x4 masks whose row and column sums are 2, bool [90, 4, 4].

Read as a 16-bit number whose highest bit is row 0, column 0, they descend, and an exact tie between
two of them goes to the larger number. So the mask can ride in the sum: with score * 2^16 + its bit
for each value, the largest of the 90 sums of eight ends in the bits of the pattern that wins.
"""

LARGEST_SCORE = 8191
_INVERSE = 2.0**-13 + 2.0**-26  # 1/8191 in float32


def score(x: Tensor) -> Tensor:
    """Give the float64 magnitudes that `row` and `greedy` rank; the module's docstring says how."""
    return torch.where(x.isnan(), -1.0, x.double().abs())


def score_tiles(x_T44: Tensor) -> Tensor:
    """Give the integer scores of `transposable`, float64 [T, 4, 4]; defined at the top."""
    magnitude_T44, scale_T11 = _magnitude_and_scale(x_T44)
    return (magnitude_T44.double() * scale_T11.double()).round()  # exact until it is rounded


def score_tiles_l2(x_T44: Tensor) -> Tensor:
    """Give the integer scores of `transposable_l2`, float64 [T, 4, 4]; defined at the top."""
    magnitude_T44, scale_T11 = _magnitude_and_scale(x_T44)
    u_T44 = magnitude_T44 * scale_T11
    t_T44 = u_T44 * torch.full_like(u_T44, _INVERSE)
    return (u_T44.double() * t_T44.double()).round()


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

    Each 4x4 tile takes the first of the 90 PATTERNS with the largest total of integer scores (the
    module's docstring). Transposing x transposes the mask where one pattern is the best; among
    several the first may be another for x.T, and no rule could avoid that: a symmetric tile can
    have no symmetric pattern among its best.
    C % 4 == 0; rows are padded with zeros to a multiple of four, and the padding is cut off again:
    the last R % 4 rows may then keep fewer than two along columns.
    Returns [R, C] bool. The problem: Hubara et al. 2021, arXiv 2102.08124.
    """
    return _best_mask(x_RC, score_tiles)


def mask_transposable_l2_24(x_RC: Tensor) -> Tensor:
    """Keep the largest sum of squares, the energy, else as `mask_transposable24`."""
    return _best_mask(x_RC, score_tiles_l2)


def mask_greedy24(x_RC: Tensor) -> Tensor:
    """Go through each 4x4 tile by falling magnitude; keep what its row and column have room for.

    What xFormers and PyTorch call `largest_abs_values_greedy`, for comparison: a row or column may
    end with fewer than two. Ties go to the lower row, then the lower column. C % 4 == 0; rows are
    padded as in `mask_transposable24`. Returns [R, C] bool.
    """
    R, C = x_RC.shape
    tiles_T44 = tiles24(score(x_RC))
    order_T16 = tiles_T44.flatten(1).sort(dim=-1, descending=True, stable=True).indices
    mask_T44 = torch.zeros_like(tiles_T44, dtype=torch.bool)
    tile_T = torch.arange(tiles_T44.shape[0], device=x_RC.device)
    for place in range(16):
        row_T, column_T = order_T16[:, place] // 4, order_T16[:, place] % 4
        row_has_room = mask_T44[tile_T, row_T].sum(dim=-1) < 2
        column_has_room = mask_T44[tile_T, :, column_T].sum(dim=-1) < 2
        mask_T44[tile_T, row_T, column_T] = row_has_room & column_has_room
    return untile24(mask_T44, R, C)


def select_mask24(x_RC: Tensor, rule: Rule) -> Tensor:
    """Give the [R, C] bool mask of x by the named rule."""
    if rule == "transposable":
        return mask_transposable24(x_RC)
    if rule == "transposable_l2":
        return mask_transposable_l2_24(x_RC)
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


def tiles24(x_RC: Tensor) -> Tensor:
    """Cut a matrix into its 4x4 tiles, row by row of them, padded with zeros: [T, 4, 4]."""
    R, C = x_RC.shape
    row_tiles, column_tiles = (R + 3) // 4, C // 4
    padded = F.pad(x_RC, (0, 0, 0, 4 * row_tiles - R))
    tiles = padded.reshape(row_tiles, 4, column_tiles, 4).transpose(1, 2)
    return tiles.reshape(row_tiles * column_tiles, 4, 4)


def untile24(tiles_T44: Tensor, rows: int, columns: int) -> Tensor:
    """Undo `tiles24`, without the padding: [rows, columns]."""
    row_tiles, column_tiles = (rows + 3) // 4, columns // 4
    tiles = tiles_T44.reshape(row_tiles, column_tiles, 4, 4).transpose(1, 2)
    return tiles.reshape(4 * row_tiles, columns)[:rows].contiguous()


def _magnitude_and_scale(x_T44: Tensor) -> tuple[Tensor, Tensor]:
    magnitude_T44 = x_T44.float().abs().nan_to_num(nan=0.0).clamp(max=2.0**100)
    largest_T11 = magnitude_T44.amax(dim=(1, 2), keepdim=True).clamp(min=2.0**-100)
    # A number over a tensor would be that number times a rounded reciprocal.
    return magnitude_T44, torch.full_like(largest_T11, LARGEST_SCORE) / largest_T11


def _best_mask(x_RC: Tensor, score_of: Callable[[Tensor], Tensor]) -> Tensor:
    R, C = x_RC.shape
    patterns_P44 = PATTERNS.to(x_RC.device)
    patterns_16P = patterns_P44.flatten(1).T.double()
    best = [
        (score_of(tiles_T44).flatten(1) @ patterns_16P).argmax(dim=1)  # exact; the first of equals
        for tiles_T44 in tiles24(x_RC).split(_tiles_at_once(x_RC.device))
    ]
    return untile24(patterns_P44[torch.cat(best)], R, C)


def _tiles_at_once(device: torch.device) -> int:
    # The totals, float64 [T, 90]: 6 MB stay in a CPU's cache, 189 MB keep a GPU busy.
    return 2**13 if device.type == "cpu" else 2**18
