"""The operations of a policy on a batch, each sample with one of its own.

The host knows which sample an operation changes, so that only those are read and written.
"""

from collections.abc import Callable

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
from sparsetrain.lightning.data.batch_policies import (
    AUTO_CONTRAST,
    BICUBIC,
    BRIGHTNESS,
    COLOR,
    CONTRAST,
    EQUALIZE,
    INVERT,
    MOVES,
    OPERATIONS,
    POSTERIZE,
    ROTATE,
    SHARPNESS,
    SHEAR_X,
    SHEAR_Y,
    SOLARIZE,
    SOLARIZE_ADD,
    TRANSLATE_X,
    TRANSLATE_Y,
    Drawn,
)
from sparsetrain.lightning.data.draws import upload


def apply(x: Tensor, drawn: Drawn, fill_C: Tensor) -> None:
    """Apply one drawn operation to each sample of x, uint8 [B, 3, H, W], in place.

    drawn: on the CPU. fill_C: the colour of places that a moved image leaves empty.
    """
    which_B = _WHICH[drawn.op.long()]
    order_B = which_B.argsort(stable=True)
    counts = which_B.bincount(minlength=len(_OPERATIONS) + 1).tolist()
    rows = upload(order_B, x.device).split(counts)
    numbers = upload(torch.stack(drawn, dim=1)[order_B], x.device).split(counts)
    for (_, operation), at, these in zip(_OPERATIONS, rows[:-1], numbers[:-1], strict=True):
        if len(at):
            x[at] = operation(x[at].float(), Drawn(*these.unbind(1)), fill_C).to(torch.uint8)


def _move(x: Tensor, drawn: Drawn, fill_C: Tensor) -> Tensor:
    return affine(x, _matrices(drawn, x.shape[-1]), fill_C, "bilinear")


def _move_bicubic(x: Tensor, drawn: Drawn, fill_C: Tensor) -> Tensor:
    matrices = _matrices(Drawn(drawn.op - BICUBIC, drawn.amount), x.shape[-1])
    return affine(x, matrices, fill_C, "bicubic")


def _auto_contrast(x: Tensor, drawn: Drawn, fill_C: Tensor) -> Tensor:
    return look_up(x, autocontrast_table(histogram(x)))


def _equalize(x: Tensor, drawn: Drawn, fill_C: Tensor) -> Tensor:
    return look_up(x, equalize_table(histogram(x)))


def _invert(x: Tensor, drawn: Drawn, fill_C: Tensor) -> Tensor:
    return 255 - x


def _posterize(x: Tensor, drawn: Drawn, fill_C: Tensor) -> Tensor:
    step = _each(torch.exp2(8 - drawn.amount))
    return (x / step).floor() * step


def _solarize(x: Tensor, drawn: Drawn, fill_C: Tensor) -> Tensor:
    return torch.where(x < _each(drawn.amount), x, 255 - x)


def _solarize_add(x: Tensor, drawn: Drawn, fill_C: Tensor) -> Tensor:
    return torch.where(x < 128, (x + _each(drawn.amount)).clamp(max=255), x)


def _color(x: Tensor, drawn: Drawn, fill_C: Tensor) -> Tensor:
    return blend(gray(x), x, drawn.amount)


def _contrast(x: Tensor, drawn: Drawn, fill_C: Tensor) -> Tensor:
    mean = (gray(x).mean(dim=(1, 2, 3), dtype=torch.float64) + 0.5).floor().float()
    return blend(_each(mean), x, drawn.amount)


def _brightness(x: Tensor, drawn: Drawn, fill_C: Tensor) -> Tensor:
    return blend(torch.zeros_like(x), x, drawn.amount)


def _sharpness(x: Tensor, drawn: Drawn, fill_C: Tensor) -> Tensor:
    return blend(smooth(x), x, drawn.amount)


_OPERATIONS: tuple[tuple[tuple[int, ...], Callable[[Tensor, Drawn, Tensor], Tensor]], ...] = (
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
_NUMBERS = {op: number for number, (ops, _) in enumerate(_OPERATIONS) for op in ops}
_WHICH = torch.tensor(
    [_NUMBERS.get(op, len(_OPERATIONS)) for op in range(BICUBIC + OPERATIONS)] + [len(_OPERATIONS)]
)
"""Which change an operation is; len(_OPERATIONS) is none, as is the last one, for -1."""


def _matrices(drawn: Drawn, size: int) -> Tensor:
    """Where each output pixel is read, [N, 6]."""
    op, amount = drawn
    zero = torch.zeros_like(amount)
    angle = -torch.deg2rad(torch.where(op == ROTATE, amount, zero))
    cos, sin = torch.cos(angle), torch.sin(angle)
    middle = size / 2
    shear_x, shear_y, right, down = (
        torch.where(op == move, amount, zero)
        for move in (SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y)
    )
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
