"""The data module of sets that lie in a folder and are augmented for training."""

from collections.abc import Sequence
from pathlib import Path

from sparsetrain.lightning.data.base import ImageData, Splits
from sparsetrain.lightning.data.cached import Fixed
from sparsetrain.lightning.data.dataset import SeededImages, Source
from sparsetrain.lightning.data.transforms import (
    Augment,
    as_it_is,
    before_tensor,
    eval_transform,
    resize,
    train_transform,
)


class AugmentedData(ImageData):
    """An `ImageData` with a `root`, a random train transform and a centre-crop eval transform.

    Args (besides those of `ImageData`):
        root: the folder of the data set.
        augment: the random part of the train transform; None is none.
        crop_pct: cropped part of the shorter edge in evaluation, in (0, 1].
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
        self.root = root
        self.augment = Augment() if augment is None else augment
        self.crop_pct = crop_pct

    def fixed(self) -> Fixed:
        interpolation = self.augment.interpolation
        val = eval_transform(self.img_size, self.crop_pct, interpolation, self.mean, self.std)
        train = as_it_is if self.augment.scale else resize(self.img_size, interpolation)
        return Fixed(train, before_tensor(val), self.augment)

    def transformed(
        self, train: Source, val: Source, names: Sequence[str] | None, num_classes: int
    ) -> Splits:
        """Both sources under their transforms."""
        interpolation = self.augment.interpolation
        return Splits(
            SeededImages(
                train,
                train_transform(self.augment, self.img_size, self.mean, self.std),
                self.seed,
            ),
            SeededImages(
                val,
                eval_transform(self.img_size, self.crop_pct, interpolation, self.mean, self.std),
                self.seed,
            ),
            None if names is None else tuple(names),
            num_classes,
        )
