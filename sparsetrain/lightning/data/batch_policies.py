"""What a policy does to each image of a batch: timm's increasing RandAugment, and AutoAugment's
policy for CIFAR-10. `batch_layers.apply` does it.

Dimension key:  B samples   P sub-policies
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision import transforms as tv

from sparsetrain.lightning.data.draws import normal
from sparsetrain.lightning.data.transforms import CIFAR10

LAYER_DRAWS = 6

# timm's increasing operations, in its order; a layer of RandAugment draws one of them.
AUTO_CONTRAST, EQUALIZE, INVERT, ROTATE, POSTERIZE, SOLARIZE, SOLARIZE_ADD = range(7)
COLOR, CONTRAST, BRIGHTNESS, SHARPNESS, SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y = range(7, 15)
OPERATIONS = 15
MOVES = (ROTATE, SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y)
BICUBIC = 100


class Drawn(NamedTuple):
    """What a layer does to each of some samples, [N] each.

    op: -1 changes nothing; one of MOVES reads pixels bilinearly, and with BICUBIC added, so.
    amount: degrees of ROTATE, slope of SHEAR, pixels of TRANSLATE, with their signs; bits that
        POSTERIZE keeps; the value from which SOLARIZE inverts; what SOLARIZE_ADD adds; the factor
        of COLOR, CONTRAST, BRIGHTNESS and SHARPNESS.
    """

    op: Tensor
    amount: Tensor


@dataclass(frozen=True)
class RandAugment:
    """timm's "rand-mM-nN-pP-mstdS-mmaxX-inc1" as numbers."""

    magnitude: float = 10
    layers: int = 2
    prob: float = 0.5
    std: float = 0.0
    most: float = 10

    @classmethod
    def parse(cls, policy: str) -> "RandAugment | None":
        """None for a policy, or a part of one, that has no batched form."""
        name, *parts = policy.split("-")
        found = [re.fullmatch(r"([a-z]+)([\d.]+)", part) for part in parts]
        numbers = {match[1]: match[2] for match in found if match}
        names = {"m": "magnitude", "n": "layers", "p": "prob", "mstd": "std", "mmax": "most"}
        known = None not in found and not set(numbers) - {*names, "inc"}
        if name != "rand" or not known or numbers.pop("inc", "0") != "1":
            return None
        values = {names[key]: float(value) for key, value in numbers.items()}
        values["layers"] = int(values.get("layers", 2))
        return cls(**values)  # pyright: ignore[reportArgumentType]

    def draw(self, draws: Tensor, bicubic_share: float, size: int) -> list[Drawn]:
        """draws: uniform numbers [B, layers · LAYER_DRAWS]. size: edge of the images, pixels."""
        return [
            self._layer(numbers, bicubic_share, size) for numbers in draws.split(LAYER_DRAWS, dim=1)
        ]

    def _layer(self, draws: Tensor, bicubic_share: float, size: int) -> Drawn:
        which, applies, u, v, sign, interpolation = draws.unbind(1)
        op = torch.where(applies < self.prob, (which * OPERATIONS).floor(), -1.0)
        level = self.magnitude + self.std * normal(u, v)[0]
        level = level.clamp(0, self.most) / 10
        signed = torch.where(sign < 0.5, -level, level)
        factor = (1 + 0.9 * signed).clamp(min=0.1)
        nothing = torch.zeros_like(level)
        amounts = {
            ROTATE: 30 * signed,
            POSTERIZE: 4 - (level * 4).floor(),
            SOLARIZE: 256 - (level * 256).floor().clamp(max=256),
            SOLARIZE_ADD: (level * 110).floor().clamp(max=128),
            **dict.fromkeys((COLOR, CONTRAST, BRIGHTNESS, SHARPNESS), factor),
            **dict.fromkeys((SHEAR_X, SHEAR_Y), 0.3 * signed),
            **dict.fromkeys((TRANSLATE_X, TRANSLATE_Y), 0.45 * size * signed),
        }
        of_each = torch.stack([amounts.get(number, nothing) for number in range(OPERATIONS)])
        amount = of_each.gather(0, op.long().clamp(min=0)[None])[0]
        return Drawn(_read(op, interpolation < bicubic_share), amount)


class AutoAugment:
    """AutoAugment's policy for CIFAR-10 (Cubuk et al. 2019), as torchvision has it: one of 25
    sub-policies for each image, of two operations, each with a probability of its own."""

    layers = 2

    def draw(self, draws: Tensor, bicubic_share: float, size: int) -> list[Drawn]:
        """As `RandAugment.draw`; a move of whole pixels, as there."""
        tables = _sub_policies(size)
        row = (draws[:, 0] * len(tables[0])).long()
        layers = []
        for numbers, table in zip(draws.split(LAYER_DRAWS, dim=1), tables, strict=True):
            _, applies, sign, interpolation = numbers[:, :4].unbind(1)
            op, prob, plus, minus = table[row].unbind(1)
            op = torch.where(applies < prob, op, -1.0)
            amount = torch.where(sign < 0.5, minus, plus)
            layers.append(Drawn(_read(op, interpolation < bicubic_share), amount))
        return layers


Policy = RandAugment | AutoAugment


def batched(policy: str) -> Policy | None:
    """The batched form of a policy's name; None where it has none."""
    return AutoAugment() if policy == CIFAR10 else RandAugment.parse(policy)


@cache
def _sub_policies(size: int) -> tuple[Tensor, Tensor]:
    """Of the first and the second operation of each sub-policy: which, its probability, its amount
    with a positive and with a negative sign, [P, 4]."""
    policies = tv.AutoAugment(tv.AutoAugmentPolicy.CIFAR10).policies
    first, second = (
        torch.tensor([_row(*both[layer], size=size) for both in policies]) for layer in (0, 1)
    )
    return first, second


def _row(name: str, prob: float, bin_: int | None, size: int) -> tuple[float, ...]:
    """bin_: 0 to 9, of torchvision's magnitudes."""
    op = _NAMES[name]
    level = (bin_ or 0) / 9
    if op == POSTERIZE:
        return op, prob, 8 - round(4 * level), 8 - round(4 * level)
    if op == SOLARIZE:
        return op, prob, 255 * (1 - level), 255 * (1 - level)
    if op in (COLOR, CONTRAST, BRIGHTNESS, SHARPNESS):
        return op, prob, 1 + 0.9 * level, 1 - 0.9 * level
    if op in (TRANSLATE_X, TRANSLATE_Y):
        pixels = int(150 / 331 * size * level)
        return op, prob, -pixels, pixels  # where it is read
    amount = {ROTATE: 30.0, SHEAR_X: 0.3, SHEAR_Y: 0.3}.get(op, 0.0) * level
    return op, prob, amount, -amount


def _read(op: Tensor, bicubic: Tensor) -> Tensor:
    """Moves that read pixels bicubically as such."""
    moves = torch.isin(op, torch.tensor(MOVES, dtype=op.dtype))
    return torch.where(moves & bicubic, op + BICUBIC, op)


_NAMES = {
    "AutoContrast": AUTO_CONTRAST,
    "Equalize": EQUALIZE,
    "Invert": INVERT,
    "Rotate": ROTATE,
    "Posterize": POSTERIZE,
    "Solarize": SOLARIZE,
    "Color": COLOR,
    "Contrast": CONTRAST,
    "Brightness": BRIGHTNESS,
    "Sharpness": SHARPNESS,
    "ShearX": SHEAR_X,
    "ShearY": SHEAR_Y,
    "TranslateX": TRANSLATE_X,
    "TranslateY": TRANSLATE_Y,
}
