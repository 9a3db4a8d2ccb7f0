"""scikit-learn's embedded digits: 1,797 grey images of 8x8, for runs without a data set.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (test part).
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from sparsetrain.lightning.data.base import ImageData, Splits, check_labels
from sparsetrain.lightning.data.cached import Fixed
from sparsetrain.lightning.data.dataset import SeededImages, Transform
from sparsetrain.lightning.data.sampler import Key
from sparsetrain.lightning.data.transforms import Augment, resize, resize_transform

CLASSES = 10
KEPT_SIZE = 64
"""Up to this edge the resized digits stay in memory: at most 90 MB."""
SPLIT_SEED = 0
"""Fixed, so that runs with different seeds are measured on the same 360 images."""


class DigitSource:
    """uint8 [N, 8, 8] and int64 [N] in memory; reads as RGB images."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.images[index]).convert("RGB"), int(self.labels[index])


class DigitImages(SeededImages):
    """Digits through a transform without randomness. A small one is made once: that takes 0.6 ms,
    and a run of vit_tiny_24 reads 36,000."""

    def __init__(self, source: DigitSource, transform: Transform, seed: int, img_size: int) -> None:
        super().__init__(source, transform, seed)
        self._kept: dict[int, tuple[Tensor, int]] | None = {} if img_size <= KEPT_SIZE else None

    def __getitem__(self, key: Key) -> tuple[Tensor, int]:
        if self._kept is None or not isinstance(key, tuple):
            return super().__getitem__(key)
        _, index = key
        if index not in self._kept:
            self._kept[index] = super().__getitem__(key)
        return self._kept[index]


class Digits(ImageData):
    """1,437 training and 360 validation digits, stratified; resized only.

    Args (besides those of `ImageData`):
        augment: taken so that any recipe runs on the digits, and not used: a mirrored or cropped
            digit is another digit. `name` says so when it asks for something.

    Raises:
        ValueError: for fewer than ten classes. More are allowed, so that a model runs as it is.
    """

    def __init__(
        self,
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
        cache: str | None = None,
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
        unused = augment is not None and augment != Augment(interpolation=augment.interpolation)
        self.label = "digits, not augmented" if unused else "digits"

    def fixed(self) -> Fixed:
        whole = resize(self.img_size, "bilinear")
        return Fixed(whole, whole, Augment())

    def load(self) -> Splits:
        # Imported here: it takes seconds, and no other data set needs it.
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        images, labels = map(np.asarray, load_digits(return_X_y=True))
        check_labels(labels, self.wanted_classes or CLASSES, "digits")
        pixels = np.round(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
        train, val = train_test_split(
            np.arange(len(labels)), test_size=0.2, random_state=SPLIT_SEED, stratify=labels
        )
        return Splits(
            self._images(pixels[train], labels[train]),
            self._images(pixels[val], labels[val]),
            tuple(str(digit) for digit in range(CLASSES)),
            CLASSES,
        )

    def _images(self, pixels: np.ndarray, labels: np.ndarray) -> DigitImages:
        transform = resize_transform(self.img_size, self.mean, self.std)
        return DigitImages(DigitSource(pixels, labels), transform, self.seed, self.img_size)
