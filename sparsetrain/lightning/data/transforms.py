"""Image transforms through timm: random for training, fixed for evaluation."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from timm.data import create_transform  # pyright: ignore[reportPrivateImportUsage]
from timm.data.transforms import RandomResizedCropAndInterpolation, str_to_interp_mode
from torch import Tensor
from torchvision import transforms as tv

from sparsetrain.lightning.data.dataset import Transform

CIFAR10 = "cifar10"
INTERPOLATIONS = ("bilinear", "bicubic", "nearest", "lanczos", "random")


@dataclass(frozen=True)
class Augment:
    """The random part of a training transform. The defaults are all off.

    Args:
        auto_augment: timm's policy string, as "rand-m9-mstd0.5-inc1" (RandAugment) or "3a"
            (DeiT III's three augmentations); "cifar10" is AutoAugment's policy for CIFAR-10
            (torchvision's); None is off.
        reprob: probability of random erasing.
        remode: what an erased rectangle is filled with: "const" (0), "rand" (one colour) or
            "pixel" (noise).
        hflip: probability of a horizontal flip.
        scale: area range of RandomResizedCrop, as (0.08, 1.0); None resizes the whole image.
        color_jitter: strength for brightness, contrast and saturation; None is off. timm leaves
            it out next to an `auto_augment` other than "3a".
        interpolation: "bilinear", "bicubic", "nearest", "lanczos", or "random" for either of the
            first two, which needs `scale`.
        crop_padding: width in pixels of a black border around the resized image. A random crop of
            the result's size is cut from both. 4 is usual for images of 32 pixels; 0 is off.

    Raises:
        ValueError: for a value outside these.
    """

    auto_augment: str | None = None
    reprob: float = 0.0
    remode: str = "pixel"
    hflip: float = 0.0
    scale: Sequence[float] | None = None
    color_jitter: float | None = None
    interpolation: str = "bicubic"
    crop_padding: int = 0

    def __post_init__(self) -> None:
        for name in ("reprob", "hflip"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"augment.{name}={getattr(self, name)} is not in [0, 1]")
        if not (isinstance(self.crop_padding, int) and self.crop_padding >= 0):
            raise ValueError(
                f"augment.crop_padding={self.crop_padding} is no number of pixels ≥ 0, as 4"
            )
        if self.remode not in ("const", "rand", "pixel"):
            raise ValueError(f"augment.remode={self.remode!r} is not const, rand or pixel")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"augment.interpolation={self.interpolation!r} is not one of {INTERPOLATIONS}"
            )
        if self.interpolation == "lanczos" and self.auto_augment not in (None, "3a"):
            raise ValueError(
                f"augment.interpolation='lanczos' cannot move images, as auto_augment="
                f"{self.auto_augment!r} does; give bilinear or bicubic, or auto_augment=null"
            )
        if self.scale is None:
            if self.interpolation == "random":
                raise ValueError(
                    "augment.interpolation='random' needs augment.scale; name one interpolation"
                )
        elif len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(
                f"augment.scale={list(self.scale)} is not [low, high] with 0 < low <= high <= 1"
            )


def train_transform(
    augment: Augment, img_size: int, mean: Sequence[float], std: Sequence[float]
) -> Transform:
    """PIL RGB image -> float32 [3, img_size, img_size], normalised, augmented at random."""
    cifar10 = augment.auto_augment == CIFAR10
    try:
        parts: Any = create_transform(
            img_size,
            is_training=True,
            separate=True,
            scale=None if augment.scale is None else (augment.scale[0], augment.scale[1]),
            hflip=augment.hflip,
            color_jitter=None if cifar10 else augment.color_jitter,  # pyright: ignore[reportArgumentType] (None is off)
            auto_augment=None if cifar10 else augment.auto_augment,
            interpolation=augment.interpolation,
            mean=tuple(mean),
            std=tuple(std),
            re_prob=augment.reprob,
            re_mode=augment.remode,
        )
    except (AssertionError, LookupError, ValueError) as error:  # timm's, of a policy alone
        raise ValueError(
            f"augment.auto_augment={augment.auto_augment!r} is no policy of timm ({error}): give "
            "one such as rand-m9-mstd0.5-inc1, cifar10, or null"
        ) from error
    steps = [step for part in parts for step in part.transforms]
    if augment.scale is None:
        steps[0] = resize(img_size, augment.interpolation)
    if augment.crop_padding:
        steps.insert(1, tv.RandomCrop(img_size, augment.crop_padding))
    for op in policy_ops(steps):
        if op.name.startswith("Posterize"):
            op.aug_fn = posterize
    if cifar10:
        before = len(before_tensor(tv.Compose(steps)))
        steps.insert(before, _auto_augment(augment.interpolation, mean))
    return tv.Compose(steps)


def _auto_augment(interpolation: str, mean: Sequence[float]) -> Any:
    """AutoAugment for CIFAR-10; a moved image leaves the mean colour, as in timm's policies."""
    modes = ("bilinear", "bicubic") if interpolation == "random" else (interpolation,)
    fill = [float(min(255, round(255 * value))) for value in mean]
    policy = tv.AutoAugmentPolicy.CIFAR10
    return tv.RandomChoice(
        [tv.AutoAugment(policy, tv.InterpolationMode(mode), fill) for mode in modes]
    )


def posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """Keep so many bits of each channel; 0 gives black.

    timm's policies ask for 0 bits at full magnitude, which newer Pillow (13) refuses.
    """
    if bits >= 8:
        return image
    return ImageOps.posterize(image, bits) if bits > 0 else Image.new(image.mode, image.size)


def policy_ops(steps: list[Any]) -> Iterator[Any]:
    """timm's `AugmentOp`s among the steps: of RandAugment and AugMix, and of AutoAugment."""
    for step in steps:
        yield from getattr(step, "ops", ())
        for sub_policy in getattr(step, "policy", ()):
            yield from sub_policy


def eval_transform(
    img_size: int, crop_pct: float, interpolation: str, mean: Sequence[float], std: Sequence[float]
) -> Transform:
    """PIL RGB image -> float32 [3, img_size, img_size]: resize, centre crop, normalise.

    `crop_pct` is the cropped part of the resized shorter edge, in (0, 1].
    """
    if not 0 < crop_pct <= 1:
        raise ValueError(f"crop_pct={crop_pct} is not in (0, 1]; timm's default is 0.875")
    transform: Any = create_transform(
        img_size,
        is_training=False,
        crop_pct=crop_pct,
        interpolation="bilinear" if interpolation == "random" else interpolation,
        mean=tuple(mean),
        std=tuple(std),
    )
    return transform


def before_tensor(transform: Any) -> list[Any]:
    """The steps of a composed transform before the image becomes a tensor."""
    return list(takewhile(lambda step: not isinstance(step, tv.ToTensor), transform.transforms))


def chain(*steps: Any) -> Any:
    """One function after the other."""
    return tv.Compose(list(steps))


def to_pixels(
    augment: Augment, img_size: int, mean: Sequence[float], std: Sequence[float]
) -> list[Any]:
    """The steps of `train_transform` before the tensor, PIL RGB -> uint8 [3, img_size, img_size].

    Random numbers are the same. Where a crop is all that needs the image, it is `CropToPixels`.
    """
    steps = before_tensor(train_transform(augment, img_size, mean, std))
    crop = steps[0]
    others = augment.auto_augment is not None or augment.color_jitter is not None
    known = augment.interpolation in ("bilinear", "bicubic", "random")
    if isinstance(crop, RandomResizedCropAndInterpolation) and known and not others:
        return [CropToPixels(crop, img_size), *steps[1:]]
    return [*steps, pixels]


class CropToPixels:
    """timm's random crop with its random numbers, PIL RGB -> uint8 [3, size, size].

    PyTorch resizes: 3.6 times as fast as Pillow (from 500 x 375, on a core with AVX2), and at most
    2 of 255 apart from it.
    """

    def __init__(self, crop: RandomResizedCropAndInterpolation, size: int) -> None:
        self.crop = crop
        self.size = size

    def __call__(self, image: Image.Image) -> Tensor:
        crop: Any = self.crop
        top, left, height, width = crop.get_params(image, crop.scale, crop.ratio)
        mode = crop.interpolation
        if isinstance(mode, tuple):
            mode = random.choice(mode)
        part = pixels(image.crop((left, top, left + width, top + height)))
        size = (self.size, self.size)
        return F.interpolate(part[None], size, mode=mode.value, antialias=True)[0]


def pixels(image: Image.Image) -> Tensor:
    """PIL RGB -> uint8 [3, H, W]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def as_it_is(image: Any) -> Any:
    return image


def resize_transform(img_size: int, mean: Sequence[float], std: Sequence[float]) -> Transform:
    """PIL RGB image -> float32 [3, img_size, img_size]: resize and normalise, nothing random."""
    return tv.Compose(
        [resize(img_size, "bilinear"), tv.ToTensor(), tv.Normalize(tuple(mean), tuple(std))]
    )


def resize(img_size: int, interpolation: str) -> tv.Resize:
    """The whole image to [img_size, img_size], aspect ratio not kept."""
    mode: Any = str_to_interp_mode(interpolation)
    return tv.Resize((img_size, img_size), interpolation=mode)
