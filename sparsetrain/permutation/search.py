"""In which order units keep most: they are regrouped by fours, two random fours at a time.

What it does    two fours of units (rows of one matrix, columns of the next) become the best two of
                the 35 ways to split eight units; every four meets another one in each round
When            before masks are chosen
Cost            a round adds and compares 35 × 19 numbers for each pair of fours and each four of
                neighbours (35 × 3 for each neighbour where masks are of rows alone)
Source          Pool & Yu, "Channel Permutations for N:M Sparsity", NeurIPS 2021: the exhaustive
                search of two stripes of columns. Theirs takes pairs by falling gain and escapes
                from optima; here pairs are random, and tiles count as rows do.

Scores become integers first, so sums are exact and the order is the same on any device.

Dimension key:  B sets of units   U units of a set   W neighbours in tiles   L neighbours in lines
                P pairs of fours   Q pairs of units, 28   V values of a pair   F fours of eight, 70
"""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

_LARGEST = 4095
_PAIRS = list(combinations(range(8), 2))
_FOURS = list(combinations(range(8), 4))
"""Half of them hold unit 0; the complement of number i is number 69 − i."""
_SPLITS = torch.tensor([_FOURS[i] + _FOURS[69 - i] for i in range(35)])
"""[35, 8]; the first changes nothing."""
_FIRST = torch.tensor([_PAIRS.index((a, b)) for a, b, _, _ in _FOURS])
_SECOND = torch.tensor([_PAIRS.index((c, d)) for _, _, c, d in _FOURS])

_TWO = list(combinations(range(4), 2))
_ORDERED = [(i, l) for i in range(4) for l in range(4) if i != l]  # noqa: E741
_TILE_PARTNER = torch.tensor(
    [
        0,
        *(1 + 5 - k for k in range(6)),  # the complement of two columns
        *(7 + _ORDERED.index((l, i)) for i, l in _ORDERED),  # noqa: E741
    ]
)
_LINE_PARTNER = torch.tensor([0, 2, 1])


def find_order(tiles_BUW: Tensor, lines_BUL: Tensor, rounds: int, seed: int) -> Tensor:
    """The order of the units of each set, int64 [B, U], on the device of the scores.

    tiles: scores ≥ 0 whose masks are of 4×4 tiles, two in each row and column; W % 4 == 0.
    lines: scores whose masks keep two of four units. Either may have no neighbours. U % 4 == 0.
    """
    B, U, _ = tiles_BUW.shape
    tiles_BUW, lines_BUL = _as_integers(tiles_BUW, lines_BUL)
    device = tiles_BUW.device
    order_BU = torch.arange(U, device=device).repeat(B, 1)
    random = torch.Generator().manual_seed(seed)
    for _ in range(rounds):
        # Fours in pairs; one is left over where their number is odd.
        fours_BP2 = torch.stack([torch.randperm(U // 4, generator=random) for _ in range(B)])
        fours_BP2 = fours_BP2[:, : U // 8 * 2].reshape(B, U // 8, 2).to(device)
        places_BP8 = (4 * fours_BP2[..., None] + torch.arange(4, device=device)).flatten(2)
        set_of_P = torch.arange(B, device=device).repeat_interleave(U // 8)
        places_P8 = places_BP8.flatten(0, 1)
        units_P8 = order_BU[set_of_P[:, None], places_P8]
        split_P = _best_splits(tiles_BUW, lines_BUL, set_of_P, units_P8)
        better_P8 = units_P8.gather(1, _SPLITS.to(device)[split_P])
        order_BU[set_of_P[:, None], places_P8] = better_P8
    return order_BU


def _best_splits(
    tiles_BUW: Tensor, lines_BUL: Tensor, set_of_P: Tensor, units_P8: Tensor
) -> Tensor:
    """Which of the 35 splits keeps most, for each eight units; 0 where none keeps more."""
    best = []
    at_once = _pairs_at_once(tiles_BUW.shape[2], lines_BUL.shape[2], tiles_BUW.device)
    for sets_P, some_P8 in zip(set_of_P.split(at_once), units_P8.split(at_once), strict=True):
        kept_PF = _kept(_tile_values(tiles_BUW[sets_P[:, None], some_P8]), _TILE_PARTNER)
        kept_PF = kept_PF + _kept(_line_values(lines_BUL[sets_P[:, None], some_P8]), _LINE_PARTNER)
        best.append((kept_PF[:, :35] + kept_PF[:, 35:].flip(1)).argmax(dim=1))
    return torch.cat(best) if best else set_of_P


def _kept(values_PQVN: Tensor, partner_V: Tensor) -> Tensor:
    """What each four of eight units keeps, summed over neighbours: float64 [P, 70].

    A four is two pairs of units; a mask of it is one value of the first pair and the partner of
    that value of the second.
    """
    partners_PQVN = values_PQVN[:, :, partner_V.to(values_PQVN.device)]
    kept = [
        (values_PQVN[:, first] + partners_PQVN[:, second]).amax(dim=1).sum(-1, dtype=torch.float64)
        for first, second in zip(_FIRST.tolist(), _SECOND.tolist(), strict=True)
    ]
    return torch.stack(kept, dim=1)


def _tile_values(x_P8W: Tensor) -> Tensor:
    """What two units can keep of four neighbours, [P, 28, 19, W / 4].

    Two rows of a 4×4 mask with two in each row and column are complements of each other (the best
    of all: 1 value), or equal (6), or share one column and both lack another (12). The other two
    rows are then complements, equal in the other columns, or share the column that those lack.
    """
    x_P8G4 = x_P8W.unflatten(2, (-1, 4))
    u, v = _units_of_pairs(x_P8G4)
    both = u + v
    values = [v.sum(-1) + _top2(u - v)]
    values += [both[..., i] + both[..., k] for i, k in _TWO]
    for i, l in _ORDERED:  # noqa: E741
        j, k = (c for c in range(4) if c not in (i, l))
        crossed = torch.maximum(u[..., j] + v[..., k], u[..., k] + v[..., j])
        values.append(both[..., i] + crossed)
    return torch.stack(values, dim=2)


def _line_values(x_P8L: Tensor) -> Tensor:
    """What two units can keep of a neighbour, [P, 28, 3, L]: the larger, both, nothing."""
    u, v = _units_of_pairs(x_P8L)
    return torch.stack([torch.maximum(u, v), u + v, torch.zeros_like(u)], dim=2)


def _units_of_pairs(x_P8: Tensor) -> tuple[Tensor, Tensor]:
    first, second = zip(*_PAIRS, strict=True)
    return x_P8[:, first], x_P8[:, second]


def _top2(x: Tensor) -> Tensor:
    """The sum of the two largest of four values."""
    a, b, c, d = x.unbind(-1)
    crossed = torch.maximum(a, b) + torch.maximum(c, d)
    return torch.maximum(crossed, torch.maximum(a + b, c + d))


def _as_integers(tiles: Tensor, lines: Tensor) -> tuple[Tensor, Tensor]:
    """Scores from 0 to 4095, in float32: sums of eight are exact. NaN counts as nothing."""
    tiles, lines = (x.float().nan_to_num(nan=0.0, posinf=3e38) for x in (tiles, lines))
    largest = max([x.amax().item() for x in (tiles, lines) if x.numel()], default=0.0)
    scale = _LARGEST / largest if largest else 0.0
    return (tiles * scale).round(), (lines * scale).round()


def _pairs_at_once(tiles: int, lines: int, device: torch.device) -> int:
    # Values of the 28 pairs in float32, twice: 16 MB stay near a CPU, 1 GB keep a GPU busy.
    of_a_pair = 28 * 2 * 4 * (19 * tiles // 4 + 3 * lines)
    return max(1, (2**24 if device.type == "cpu" else 2**30) // max(of_a_pair, 1))
