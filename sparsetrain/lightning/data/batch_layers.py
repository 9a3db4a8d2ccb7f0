"""timm's increasing RandAugment on a batch, each sample with operations of its own.

The host draws which sample an operation changes, so that only those are read and written.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sparsetrain.lightning.data.batch_ops import (
    affine,
    autocontrast_table,
    blend,
    equalize_table,
    gray,
    histogram,
    look_up,
    smooth,
)
from sparsetrain.lightning.data.draws import normal, upload

LAYER_DRAWS = 6

# timm's increasing operations, in its order; a layer draws one of them.
AUTO_CONTRAST, EQUALIZE, INVERT, ROTATE, POSTERIZE, SOLARIZE, SOLARIZE_ADD = range(7)
COLOR, CONTRAST, BRIGHTNESS, SHARPNESS, SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y = range(7, 15)
OPERATIONS = 15
MOVES = (ROTATE, SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y)
BICUBIC = 100


@dataclass(frozen=True)
class RandAugment:
    """timm's "rand-mM-nN-pP-mstdS-mmaxX-inc1" as numbers."""

    magnitude: float = 10
    layers: int = 2
    prob: float = 0.5
    std: float = 0.0
    most: float = 10

    @classmethod
    def parse(cls, policy: str) -> "RandAugment":
        """Raises ValueError for a policy, or a part of one, that has no batched form."""
        name, *parts = policy.split("-")
        found = [re.fullmatch(r"([a-z]+)([\d.]+)", part) for part in parts]
        numbers = {match[1]: match[2] for match in found if match}
        names = {"m": "magnitude", "n": "layers", "p": "prob", "mstd": "std", "mmax": "most"}
        known = None not in found and not set(numbers) - {*names, "inc"}
        if name != "rand" or not known or numbers.pop("inc", "0") != "1":
            raise ValueError(
                f"data.augment.auto_augment={policy!r} has no form on the GPU; give "
                "rand-m9-mstd0.5-inc1 with numbers of yours, null, or data.cache=null and "
                "data.gpu=augment, which leaves it to the loading processes"
            )
        values = {names[key]: float(value) for key, value in numbers.items()}
        values["layers"] = int(values.get("layers", 2))
        return cls(**values)  # pyright: ignore[reportArgumentType]


class Drawn(NamedTuple):
    """What a layer does to each of some samples, [N] each, on the device.

    op: -1 changes nothing; one of MOVES reads pixels bilinearly, and with BICUBIC added, so.
    level: 0 to 1. signed: level with a random sign. factor: of the enhancing operations.
    """

    op: Tensor
    level: Tensor
    signed: Tensor
    factor: Tensor


def draw_layer(draws_BN: Tensor, policy: RandAugment, bicubic_share: float) -> Drawn:
    """From LAYER_DRAWS uniform numbers of each sample."""
    which, applies, u, v, sign, interpolation = draws_BN.unbind(1)
    op = torch.where(applies < policy.prob, (which * OPERATIONS).floor(), -1.0)
    cubic = torch.isin(op, torch.tensor(MOVES, dtype=op.dtype)) & (interpolation < bicubic_share)
    op = torch.where(cubic, op + BICUBIC, op)
    level = policy.magnitude + policy.std * normal(u, v)[0]
    level = level.clamp(0, policy.most) / 10
    signed = torch.where(sign < 0.5, -level, level)
    factor = (1 + 0.9 * signed).clamp(min=0.1)
    return Drawn(op, level, signed, factor)


def change_layer(x: Tensor, drawn: Drawn, fill_C: Tensor) -> None:
    """Apply one drawn operation to each sample of x, uint8 [B, 3, H, W], in place.

    drawn: on the CPU. fill_C: the colour of places that a moved image leaves empty.
    """
    which_B = _WHICH[drawn.op.long()]
    order_B = which_B.argsort(stable=True)
    counts = which_B.bincount(minlength=len(_CHANGES) + 1).tolist()
    rows = upload(order_B, x.device).split(counts)
    numbers = upload(torch.stack(drawn, dim=1)[order_B], x.device).split(counts)
    for (_, change), at, these in zip(_CHANGES, rows[:-1], numbers[:-1], strict=True):
        if len(at):
            x[at] = change(x[at].float(), Drawn(*these.unbind(1)), fill_C).to(torch.uint8)


def _move(x: Tensor, drawn: Drawn, fill_C: Tensor) -> Tensor:
    return affine(x, _matrices(drawn.op, drawn.signed, x.shape[-1]), fill_C, "bilinear")


def _move_bicubic(x: Tensor, drawn: Drawn, fill_C: Tensor) -> Tensor:
    matrices = _matrices(drawn.op - BICUBIC, drawn.signed, x.shape[-1])
    return affine(x, matrices, fill_C, "bicubic")


def _auto_contrast(x: Tensor, drawn: Drawn, fill_C: Tensor) -> Tensor:
    return look_up(x, autocontrast_table(histogram(x)))


def _equalize(x: Tensor, drawn: Drawn, fill_C: Tensor) -> Tensor:
    return look_up(x, equalize_table(histogram(x)))


def _invert(x: Tensor, drawn: Drawn, fill_C: Tensor) -> Tensor:
    return 255 - x


def _posterize(x: Tensor, drawn: Drawn, fill_C: Tensor) -> Tensor:
    step = _each(torch.exp2(4 + (drawn.level * 4).floor()))
    return (x / step).floor() * step


def _solarize(x: Tensor, drawn: Drawn, fill_C: Tensor) -> Tensor:
    threshold = _each(256 - (drawn.level * 256).floor().clamp(max=256))
    return torch.where(x < threshold, x, 255 - x)


def _solarize_add(x: Tensor, drawn: Drawn, fill_C: Tensor) -> Tensor:
    add = _each((drawn.level * 110).floor().clamp(max=128))
    return torch.where(x < 128, (x + add).clamp(max=255), x)


def _color(x: Tensor, drawn: Drawn, fill_C: Tensor) -> Tensor:
    return blend(gray(x), x, drawn.factor)


def _contrast(x: Tensor, drawn: Drawn, fill_C: Tensor) -> Tensor:
    mean = (gray(x).mean(dim=(1, 2, 3), dtype=torch.float64) + 0.5).floor().float()
    return blend(_each(mean), x, drawn.factor)


def _brightness(x: Tensor, drawn: Drawn, fill_C: Tensor) -> Tensor:
    return blend(torch.zeros_like(x), x, drawn.factor)


def _sharpness(x: Tensor, drawn: Drawn, fill_C: Tensor) -> Tensor:
    return blend(smooth(x), x, drawn.factor)


_CHANGES: tuple[tuple[tuple[int, ...], Callable[[Tensor, Drawn, Tensor], Tensor]], ...] = (
    (MOVES, _move),
    (tuple(operation + BICUBIC for operation in MOVES), _move_bicubic),
    ((AUTO_CONTRAST,), _auto_contrast),
    ((EQUALIZE,), _equalize),
    ((INVERT,), _invert),
    ((POSTERIZE,), _posterize),
    ((SOLARIZE,), _solarize),
    ((SOLARIZE_ADD,), _solarize_add),
    ((COLOR,), _color),
    ((CONTRAST,), _contrast),
    ((BRIGHTNESS,), _brightness),
    ((SHARPNESS,), _sharpness),
)
_NUMBERS = {op: number for number, (ops, _) in enumerate(_CHANGES) for op in ops}
_WHICH = torch.tensor(
    [_NUMBERS.get(op, len(_CHANGES)) for op in range(BICUBIC + OPERATIONS)] + [len(_CHANGES)]
)
"""Which change an operation is; len(_CHANGES) is none, as is the last one, for -1."""


def _matrices(op: Tensor, signed: Tensor, size: int) -> Tensor:
    """Where each output pixel is read, [N, 6].

    signed: level with its sign. Rotations to 30°, shears to 0.3, translations to 0.45.
    """
    zero = torch.zeros_like(signed)
    angle = -torch.deg2rad(torch.where(op == ROTATE, 30 * signed, zero))
    cos, sin = torch.cos(angle), torch.sin(angle)
    middle = size / 2
    shear_x = torch.where(op == SHEAR_X, 0.3 * signed, zero)
    shear_y = torch.where(op == SHEAR_Y, 0.3 * signed, zero)
    right = torch.where(op == TRANSLATE_X, 0.45 * size * signed, zero)
    down = torch.where(op == TRANSLATE_Y, 0.45 * size * signed, zero)
    return torch.stack(
        (
            cos,
            sin + shear_x,
            middle * (1 - cos - sin) + right,
            -sin + shear_y,
            cos,
            middle * (1 - cos + sin) + down,
        ),
        dim=1,
    )


def _each(value_N: Tensor) -> Tensor:
    return value_N.view(-1, 1, 1, 1)
