"""`Augment` for whole batches on the device: the distribution of `transforms.train_transform`.

Every random number is a function of (seed, epoch, index), see draws.py. The order is that of the
transform for single images: crop and flip, RandAugment, normalisation, erasing.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsetrain.lightning.data.batch_ops import (
    affine,
    autocontrast_table,
    blend,
    crop_resize,
    equalize_table,
    gray,
    histogram,
    look_up,
    smooth,
)
from sparsetrain.lightning.data.draws import AUGMENT_STREAM, NOISE_STREAM, normal, uniform
from sparsetrain.lightning.data.transforms import Augment

TRIES = 10
"""Boxes that are drawn until one fits, for the crop and for erasing; timm's number."""
CROP_DRAWS = ERASE_DRAWS = 2 * TRIES + 4
LAYER_DRAWS = 6

# timm's increasing operations, in its order; a layer draws one of them.
AUTO_CONTRAST, EQUALIZE, INVERT, ROTATE, POSTERIZE, SOLARIZE, SOLARIZE_ADD = range(7)
COLOR, CONTRAST, BRIGHTNESS, SHARPNESS, SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y = range(7, 15)
OPERATIONS = 15


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
                f"data.augment.auto_augment={policy!r} has no form for data.cache=gpu; give "
                "rand-m9-mstd0.5-inc1 with numbers of yours, null, or data.cache=null"
            )
        values = {names[key]: float(value) for key, value in numbers.items()}
        values["layers"] = int(values.get("layers", 2))
        return cls(**values)  # pyright: ignore[reportArgumentType]


class BatchAugment:
    """Augment a batch: uint8 [B, 3, h, w] -> float32 [B, 3, img_size, img_size], normalised.

    Args:
        augment: what is random; its `color_jitter` has no form here.
        image_size: (h, w) of the images, pixels.
        img_size: edge of the result, pixels; without `augment.scale` images have it already.
        mean, std: of each channel, subtracted from and divided into values in [0, 1].
        seed: with epoch and index it decides every random number.

    Raises:
        ValueError: for a part of `augment` that has no batched form.
    """

    def __init__(
        self,
        augment: Augment,
        image_size: tuple[int, int],
        img_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
        device: torch.device,
    ) -> None:
        policy = augment.auto_augment
        if augment.color_jitter is not None and policy is None:
            raise ValueError(
                f"data.augment.color_jitter={augment.color_jitter} has no form for "
                "data.cache=gpu; give null, or data.cache=null"
            )
        moves = augment.scale is not None or policy is not None
        if moves and augment.interpolation not in ("bilinear", "bicubic", "random"):
            raise ValueError(
                f"data.augment.interpolation={augment.interpolation} has no form for "
                "data.cache=gpu; give bilinear, bicubic or random, or data.cache=null"
            )
        self.augment = augment
        self.policy = None if policy is None else RandAugment.parse(policy)
        self.image_size = image_size
        self.img_size = img_size
        self.seed = seed
        self.mean_C = torch.tensor(mean, device=device)
        self.std_C = torch.tensor(std, device=device)
        self.fill_C = (255 * self.mean_C).round().clamp(max=255)

    @torch.no_grad()
    def __call__(self, images: Tensor, epoch: int, index_B: Tensor) -> Tensor:
        """index_B: int64 [B], the samples' numbers in the set."""
        layers = 0 if self.policy is None else self.policy.layers
        count = CROP_DRAWS + ERASE_DRAWS + layers * LAYER_DRAWS
        draws = uniform(self.seed, epoch, index_B, count, AUGMENT_STREAM)
        sizes = [CROP_DRAWS, ERASE_DRAWS, *[LAYER_DRAWS] * layers]
        crop, erase, *each_layer = draws.split(sizes, dim=1)
        x = self._crop(images.float(), crop)
        for layer in each_layer:
            x = self._layer(x, layer)
        x = (x / 255 - self.mean_C.view(-1, 1, 1)) / self.std_C.view(-1, 1, 1)
        return self._erase(x, erase, epoch, index_B) if self.augment.reprob > 0 else x

    def _crop(self, x: Tensor, draws: Tensor) -> Tensor:
        flip = draws[:, -1] < self.augment.hflip
        if self.augment.scale is None:
            return torch.where(flip.view(-1, 1, 1, 1), x.flip(3), x)
        height, width = self.image_size
        low, high = self.augment.scale
        box = draw_boxes(draws, (height, width), (low, high), 3 / 4, whole=True)
        return crop_resize(x, box, flip, self.img_size, self._bicubic(draws[:, -2]))

    def _bicubic(self, draw: Tensor) -> Tensor:
        share = {"bilinear": 0.0, "bicubic": 1.0, "random": 0.5}[self.augment.interpolation]
        return draw < share

    def _layer(self, x: Tensor, draws: Tensor) -> Tensor:
        """One drawn operation for each sample: by a map of places, of values, or by blending."""
        assert self.policy is not None
        which, applies, u, v, sign, interpolation = draws.unbind(1)
        op = (which * OPERATIONS).long()
        op = torch.where(applies < self.policy.prob, op, -1)
        level = self.policy.magnitude + self.policy.std * normal(u, v)[0]
        level = level.clamp(0, self.policy.most) / 10
        signed = torch.where(sign < 0.5, -level, level)
        factor = (1 + 0.9 * signed).clamp(min=0.1)
        bicubic = None
        if self.augment.interpolation != "bilinear":
            bicubic = self._bicubic(interpolation)
        moved = affine(x, _matrices(op, signed, self.img_size), self.fill_C, bicubic)
        mapped = look_up(moved, _tables(moved, op, level, factor))
        one = torch.ones_like(factor)
        colored = blend(gray(mapped), mapped, torch.where(op == COLOR, factor, one))
        return blend(smooth(colored), colored, torch.where(op == SHARPNESS, factor, one))

    def _erase(self, x: Tensor, draws: Tensor, epoch: int, index_B: Tensor) -> Tensor:
        B, C, H, W = x.shape
        top, left, height, width = draw_boxes(draws, (H, W), (0.02, 1 / 3), 0.3).unbind(1)
        y = torch.arange(H, device=x.device)
        z = torch.arange(W, device=x.device)
        rows = (y >= top[:, None]) & (y < (top + height)[:, None])
        columns = (z >= left[:, None]) & (z < (left + width)[:, None])
        erased = rows[:, None, :, None] & columns[:, None, None, :]
        erased = erased & (draws[:, -1] < self.augment.reprob).view(B, 1, 1, 1)
        if self.augment.remode == "const":
            return torch.where(erased, 0.0, x)
        shape = (C, 1, 1) if self.augment.remode == "rand" else (C, H, W)
        count = math.prod(shape)
        draws = uniform(self.seed, epoch, index_B, count + count % 2, NOISE_STREAM)
        noise = torch.cat(normal(*draws.chunk(2, dim=1)), dim=1)[:, :count].view(B, *shape)
        return torch.where(erased, noise, x)


def draw_boxes(
    draws: Tensor,
    size: tuple[int, int],
    area: tuple[float, float],
    aspect: float,
    whole: bool = False,
) -> Tensor:
    """Boxes (top, left, height, width) of random area and aspect ratio, float32 [B, 4].

    draws: [B, 2 * TRIES + 2 or more]: areas, ratios, then top and left. The first of the tries that
    fits counts. area: range, as a part of the image's. aspect: the smallest ratio; the largest is
    its inverse. whole: a box as large as the image fits, and where none fits, the largest
    centred one with an allowed ratio is taken; otherwise it does not, and the box is empty.
    """
    H, W = size
    areas, ratios = draws[:, :TRIES], draws[:, TRIES : 2 * TRIES]
    area_BT = (area[0] + (area[1] - area[0]) * areas) * (H * W)
    ratio_BT = torch.exp(math.log(aspect) * (1 - 2 * ratios))
    width, height = torch.sqrt(area_BT * ratio_BT).round(), torch.sqrt(area_BT / ratio_BT).round()
    fits = (width <= W) & (height <= H) if whole else (width < W) & (height < H)
    first = fits.int().argmax(1, keepdim=True)
    width, height = width.gather(1, first)[:, 0], height.gather(1, first)[:, 0]
    top = (draws[:, 2 * TRIES] * (H - height + 1)).floor()
    left = (draws[:, 2 * TRIES + 1] * (W - width + 1)).floor()
    box = torch.stack((top, left, height, width), dim=1)
    other = torch.zeros(4, device=draws.device)
    if whole:
        h, w = min(H, round(W / aspect)), min(W, round(H / aspect))
        other = torch.tensor([(H - h) // 2, (W - w) // 2, h, w], device=draws.device)
    return torch.where(fits.any(1, keepdim=True), box, other.float())


def _matrices(op: Tensor, signed: Tensor, size: int) -> Tensor:
    """Where each output pixel is read, [B, 6], of the samples whose operation moves pixels.

    signed: level / 10 with its sign. Rotations to 30°, shears to 0.3, translations to 0.45.
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


def _tables(x: Tensor, op: Tensor, level: Tensor, factor: Tensor) -> Tensor:
    """What each value becomes, float32 [B, C, 256], by the operations that look at values alone.

    level: level / 10, of 0 to 1. factor: of the enhancing operations.
    """
    counts = histogram(x)
    value = torch.arange(256, device=x.device, dtype=torch.float32).expand(len(x), 3, 256)
    level, factor, op = (t.view(-1, 1, 1) for t in (level, factor, op))
    bits = 4 - (level * 4).floor()
    step = torch.exp2(8 - bits)
    threshold = 256 - (level * 256).floor().clamp(max=256)
    add = (level * 110).floor().clamp(max=128)
    mean = (gray(x).mean(dim=(1, 2, 3), dtype=torch.float64) + 0.5).floor().view(-1, 1, 1).float()
    table = value
    for operation, new in (
        (AUTO_CONTRAST, autocontrast_table(counts)),
        (EQUALIZE, equalize_table(counts)),
        (INVERT, 255 - value),
        (POSTERIZE, (value / step).floor() * step),
        (SOLARIZE, torch.where(value < threshold, value, 255 - value)),
        (SOLARIZE_ADD, torch.where(value < 128, (value + add).clamp(max=255), value)),
        (CONTRAST, _stretch(mean, value, factor)),
        (BRIGHTNESS, _stretch(torch.zeros_like(mean), value, factor)),
    ):
        table = torch.where(op == operation, new, table)
    return table


def _stretch(from_: Tensor, value: Tensor, factor: Tensor) -> Tensor:
    return (from_ + factor * (value - from_) + 1e-4).clamp(0, 255).floor()
