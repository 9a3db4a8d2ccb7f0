"""Units of a permutation: the rows and columns of layers that move together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsetrain.select import Selection

Kind = Literal["hidden units", "value channels", "query and key channels"]


@dataclass(frozen=True)
class Place:
    """Where a set of units lies in a layer: `at` is its first row or column."""

    layer: str
    at: int


@dataclass(frozen=True)
class UnitSet:
    """Units that change places among each other: rows of weights with their biases, and columns."""

    rows: tuple[Place, ...]
    columns: tuple[Place, ...]


@dataclass(frozen=True)
class Units:
    """Sets of the same size in the same layers: the hidden units of an MLP are one set, the
    channels of attention heads a set for each head.

    name: the module whose function stays as it is. size: units of each set.
    """

    name: str
    kind: Kind
    size: int
    sets: tuple[UnitSet, ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that are changed."""
        places = [place for each in self.sets for place in (*each.rows, *each.columns)]
        return tuple(dict.fromkeys(place.layer for place in places))

    def gaining(self, selections: dict[str, Selection]) -> tuple[str, ...]:
        """The layers whose masks depend on the order. selections: of those with 2:4 weights."""
        columns = {place.layer for each in self.sets for place in each.columns}
        return tuple(
            name
            for name in self.layers
            if name in selections and (name in columns or selections[name].solver != "row")
        )


def reorder(model: nn.Module, units: Units, order_BU: Tensor) -> None:
    """Let the units of each set change places, in place: unit i becomes what order[i] was."""
    with torch.no_grad():
        for each, order_U in zip(units.sets, order_BU, strict=True):
            for place in each.rows:
                layer = model.get_submodule(place.layer)
                for tensor in (layer.weight, layer.bias):
                    if isinstance(tensor, Tensor):
                        rows = tensor.data[place.at : place.at + units.size]
                        rows.copy_(rows[order_U])
            for place in each.columns:
                weight = model.get_submodule(place.layer).get_parameter("weight")
                columns = weight.data[:, place.at : place.at + units.size]
                columns.copy_(columns[:, order_U])


def scores_of(
    model: nn.Module, units: Units, selections: dict[str, Selection]
) -> tuple[Tensor, Tensor]:
    """What masks are chosen by, [B, U, W] in tiles and [B, U, L] in lines (`search`).

    Each layer's scores are divided by their mean, so that all layers count alike.
    """
    weights = {
        name: _score(model.get_submodule(name).get_parameter("weight"), selections[name])
        for name in units.gaining(selections)
    }
    tiles, lines = [], []
    for each in units.sets:
        found = [
            (name, weights[name][at : at + units.size])
            for name, at in ((place.layer, place.at) for place in each.rows)
            if name in weights and selections[name].solver != "row"
        ]
        found += [
            (place.layer, weights[place.layer][:, place.at : place.at + units.size].T)
            for place in each.columns
            if place.layer in weights
        ]
        like = next(iter(weights.values()))
        in_tiles = [_padded(x) for name, x in found if selections[name].solver != "row"]
        in_lines = [x for name, x in found if selections[name].solver == "row"]
        nothing = like.new_zeros(units.size, 0)
        tiles.append(torch.cat([nothing, *in_tiles], dim=1))
        lines.append(torch.cat([nothing, *in_lines], dim=1))
    return torch.stack(tiles), torch.stack(lines)


def _score(weight: Tensor, selection: Selection) -> Tensor:
    score = weight.detach().float().abs()
    score = score.square() if selection.score == "squared" else score
    return score / score.mean(dtype=torch.float64).clamp(min=1e-30).float()


def _padded(x: Tensor) -> Tensor:
    return F.pad(x, (0, -x.shape[1] % 4))
