"""Random images and labels, to measure throughput without a data set or a decoder."""

import numpy as np
import torch
from torch import Tensor

from sparsetrain.lightning.data.base import ImageData, Splits
from sparsetrain.lightning.data.dataset import SeededImages
from sparsetrain.lightning.data.transforms import Augment, as_it_is

POOL = 64
"""Distinct images: 37 MiB at 224 pixels, made once per process."""
CLASSES = 1000
"""When the model does not say: ImageNet's."""


class SyntheticSource:
    """`length` samples over a pool of normal images, float32 [POOL, 3, H, W]."""

    def __init__(self, length: int, img_size: int, num_classes: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.pool = torch.randn(min(length, POOL), 3, img_size, img_size, generator=generator)
        words = np.random.SeedSequence(seed).generate_state(8)
        self.labels = np.random.RandomState(words).randint(num_classes, size=length)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> tuple[Tensor, int]:
        return self.pool[index % len(self.pool)], int(self.labels[index])


class Synthetic(ImageData):
    """Normal images with random labels; nothing can be learnt from them.

    Args (besides those of `ImageData`; mean and std are not needed, the images are normal):
        length: training images of an epoch.
        val_length: validation images.
        augment: taken so that any recipe runs, and not used.
    """

    label = "synthetic"

    def __init__(
        self,
        *,
        length: int,
        val_length: int,
        batch_size: int,
        num_workers: int,
        img_size: int,
        num_classes: int | None,
        seed: int,
        prefetch_factor: int = 2,
        augment: Augment | None = None,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            num_workers=num_workers,
            img_size=img_size,
            num_classes=num_classes,
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
            seed=seed,
            prefetch_factor=prefetch_factor,
        )
        for name, value in (("length", length), ("val_length", val_length)):
            if value < 1:
                raise ValueError(f"data.{name}={value} must be at least 1")
        self.length = length
        self.val_length = val_length

    def load(self) -> Splits:
        classes = self.wanted_classes or CLASSES
        train = SyntheticSource(self.length, self.img_size, classes, self.seed)
        val = SyntheticSource(self.val_length, self.img_size, classes, self.seed + 1)
        return Splits(
            SeededImages(train, as_it_is, self.seed),
            SeededImages(val, as_it_is, self.seed),
            None,
            classes,
        )
