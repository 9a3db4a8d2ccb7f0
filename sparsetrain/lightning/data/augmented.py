"""The data module of sets that lie in a folder and are augmented for training."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from sparsetrain.lightning.data.base import ImageData, Splits
from sparsetrain.lightning.data.cached import Fixed
from sparsetrain.lightning.data.dataset import SeededImages, Source
from sparsetrain.lightning.data.decode import WHITE, Decode
from sparsetrain.lightning.data.held_out import held_out
from sparsetrain.lightning.data.transforms import (
    Augment,
    before_tensor,
    chain,
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
        background: the colour under transparent pixels, three whole numbers in 0..255.
        val_fraction: this fraction of the training images is validated on, and not trained on,
            instead of a validation split. Which ones depends on their number alone, so that runs
            with different seeds are compared on the same images.
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
        self.root = root
        self.augment = Augment() if augment is None else augment
        self.crop_pct = crop_pct
        self.decode = Decode(background)
        self.val_fraction = val_fraction

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
        """Both sources, of `Encoded` images, under their transforms."""
        interpolation = self.augment.interpolation
        train_ = train_transform(self.augment, self.img_size, self.mean, self.std)
        val_ = eval_transform(self.img_size, self.crop_pct, interpolation, self.mean, self.std)
        return Splits(
            SeededImages(train, chain(self.decode, train_), self.seed),
            SeededImages(val, chain(self.decode, val_), self.seed),
            None if names is None else tuple(names),
            num_classes,
        )

    def divided(self, source: Source, names: Sequence[str] | None, num_classes: int) -> Splits:
        """One source as both splits, by `val_fraction`."""
        train, val = held_out(source, self.val_fraction)
        return self.transformed(train, val, names, num_classes)

    def skip_note(self, where: object, skipped: Mapping[str, int]) -> None:
        """Note files that are in the place of images and were not read, by their kind."""
        if skipped:
            kinds = ", ".join(f"{kind} {count:,}" for kind, count in sorted(skipped.items()))
            self.notes += (f"{where}: {sum(skipped.values()):,} file(s) skipped ({kinds})",)
