"""The data module of sets that lie in a folder and are augmented for training."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from sparsetrain.lightning.data.base import ImageData, Splits
from sparsetrain.lightning.data.cached import Fixed
from sparsetrain.lightning.data.dataset import SeededImages, Source
from sparsetrain.lightning.data.decode import WHITE, Decode
from sparsetrain.lightning.data.held_out import held_out
from sparsetrain.lightning.data.jpeg import DecodedAndAugmented, JpegParts, together
from sparsetrain.lightning.data.loader import Resumable
from sparsetrain.lightning.data.on_device import (
    TOGETHER,
    Augmented,
    DeviceLoader,
    Keyed,
    shared_out,
)
from sparsetrain.lightning.data.sampler import EpochSampler
from sparsetrain.lightning.data.transforms import (
    CIFAR10,
    Augment,
    before_tensor,
    chain,
    eval_transform,
    resize,
    to_pixels,
    train_transform,
)
from sparsetrain.lightning.data.workers import Loader

GPU = ("auto", "augment", "decode")


class AugmentedData(ImageData):
    """An `ImageData` with a `root`, a random train transform and a centre-crop eval transform.

    Args (besides those of `ImageData`):
        root: the folder of the data set.
        augment: the random part of the train transform; None is none.
        crop_pct: cropped part of the shorter edge in evaluation, in (0, 1].
        background: the colour under transparent pixels, three whole numbers in 0..255.
        val_fraction: this fraction of the training images is validated on, and not trained on,
            instead of a validation split. Which ones depends on their number alone, so that runs
            with different seeds are compared on the same images.
        gpu: what of the training images is done on the trainer's device: None, "augment" or
            "decode" (see on_device.py), or "auto", which is "augment" where that is a GPU.
    """

    def __init__(
        self,
        root: str | Path | None,
        *,
        batch_size: int,
        num_workers: int,
        img_size: int,
        num_classes: int | None,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
        prefetch_factor: int = 2,
        augment: Augment | None = None,
        crop_pct: float = 0.875,
        cache: str | None = None,
        background: Sequence[int] = WHITE,
        val_fraction: float = 0.0,
        gpu: str | None = None,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            num_workers=num_workers,
            img_size=img_size,
            num_classes=num_classes,
            mean=mean,
            std=std,
            seed=seed,
            prefetch_factor=prefetch_factor,
            cache=cache,
        )
        if not 0 <= val_fraction < 1:
            raise ValueError(f"data.val_fraction={val_fraction} is not a fraction in [0, 1)")
        if gpu not in (None, *GPU):
            raise ValueError(f"data.gpu={gpu!r}: give {', '.join(GPU)} or null")
        if cache and gpu not in (None, "auto"):
            raise ValueError(f"data.cache={cache} augments on the GPU already: set data.gpu=null")
        self.root = root
        self.augment = Augment() if augment is None else augment
        self.crop_pct = crop_pct
        self.decode = Decode(background)
        self.decode_for_crops = Decode(background, self._shortest())
        self.val_fraction = val_fraction
        self.gpu = gpu

    def train_loader(self, sampler: EpochSampler) -> Resumable:
        word = self.gpu_word(self.device)
        if word is None:
            return super().train_loader(sampler)
        if word == "decode":
            samples, collate = JpegParts(self.splits.train.source, self.decode), together
            augment = self.on_device(self.augment)
            finish = DecodedAndAugmented(augment)
        else:
            host, there = shared_out(self.augment)
            steps = to_pixels(host, self.img_size, self.mean, self.std)
            source = self.splits.train.source
            images = SeededImages(source, chain(self.decode_for_crops, *steps), self.seed)
            samples, collate = Keyed(images), None
            augment = self.on_device(there, crop=False)
            finish = Augmented(augment)
        loader = Loader(
            samples,
            batch_size=self.batch_size,
            sampler=sampler,
            drop_last=True,
            collate_fn=collate,
            **self.options(),
        )
        group = min(augment.batches_at_once(self.batch_size), TOGETHER)
        return DeviceLoader(loader, finish, group, self.device, word)

    def _shortest(self) -> int:
        """The shorter edge of a training image, in pixels, that leaves the smallest crop as large
        as the result; twice the result where the whole image is resized."""
        scale = self.augment.scale
        least = 0.25 if scale is None else 3 / 4 * scale[0]
        return math.ceil(self.img_size / math.sqrt(least))

    def gpu_word(self, device: torch.device) -> str | None:
        """What `gpu` is on a device: "augment", "decode" or None."""
        if self.gpu == "auto":
            return "augment" if device.type == "cuda" and not self.cache else None
        return self.gpu

    def placement(self, device: torch.device) -> tuple[str, ...]:
        word = self.gpu_word(device)
        if word is None:
            return super().placement(device)
        policy = shared_out(self.augment)[1].auto_augment
        done = {
            "JPEG decoding": word == "decode",
            "crops": word == "decode",
            "AutoAugment" if policy == CIFAR10 else "RandAugment": policy is not None,
            "normalisation": True,
            "erasing": self.augment.reprob > 0,
        }
        parts = ", ".join(name for name, there in done.items() if there)
        return (f"data.gpu={self.gpu}: of the training images on {device}: {parts}",)

    def fixed(self) -> Fixed:
        interpolation = self.augment.interpolation
        val = eval_transform(self.img_size, self.crop_pct, interpolation, self.mean, self.std)
        whole = () if self.augment.scale else (resize(self.img_size, interpolation),)
        return Fixed(
            chain(self.decode, *whole), chain(self.decode, *before_tensor(val)), self.augment
        )

    def transformed(
        self, train: Source, val: Source, names: Sequence[str] | None, num_classes: int
    ) -> Splits:
        """Both sources, of `Encoded` images, under their transforms. Raises ValueError for one
        class."""
        if num_classes < 2:
            only = f", {names[0]}" if names else ""
            raise ValueError(f"data.root={self.root} has one class{only}; give at least two")
        interpolation = self.augment.interpolation
        train_ = train_transform(self.augment, self.img_size, self.mean, self.std)
        val_ = eval_transform(self.img_size, self.crop_pct, interpolation, self.mean, self.std)
        return Splits(
            SeededImages(train, chain(self.decode_for_crops, train_), self.seed),
            SeededImages(val, chain(self.decode, val_), self.seed),
            None if names is None else tuple(names),
            num_classes,
        )

    def divided(self, source: Source, names: Sequence[str] | None, num_classes: int) -> Splits:
        """One source as both splits, by `val_fraction`."""
        train, val = held_out(source, self.val_fraction)
        of = f"{len(val):,} of {len(source):,} training images"
        self.notes += (f"data.val_fraction={self.val_fraction}: {of} validate, and no others",)
        return self.transformed(train, val, names, num_classes)

    def skip_note(self, where: object, skipped: Mapping[str, int]) -> None:
        """Note files that are in the place of images and were not read, by their kind."""
        if skipped:
            kinds = ", ".join(f"{kind} {count:,}" for kind, count in sorted(skipped.items()))
            self.notes += (f"{where}: {sum(skipped.values()):,} file(s) skipped ({kinds})",)
