"""Random images and labels, to measure throughput without a data set, a decoder or a transfer."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from sparsetrain.lightning.data.base import ImageData, Splits
from sparsetrain.lightning.data.cached import Batch
from sparsetrain.lightning.data.dataset import SeededImages
from sparsetrain.lightning.data.loader import Resumable
from sparsetrain.lightning.data.sampler import EpochSampler, EvalBatches
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


class SyntheticTrainLoader(Resumable):
    """Shuffled batches (float32 [B, 3, H, W], int64 [B]) that are made on `device`."""

    def __init__(
        self, source: SyntheticSource, sampler: EpochSampler, device: torch.device
    ) -> None:
        self.sampler, self.batch_size = sampler, sampler.batch_size
        self.pool = source.pool.to(device)
        self.labels = torch.from_numpy(source.labels).to(device)

    def __len__(self) -> int:
        return self.sampler.batches

    def __iter__(self) -> Iterator[Batch]:
        epoch, size = self.sampler.epoch, self.batch_size
        order = torch.from_numpy(self.sampler.order(epoch)).to(self.labels.device)
        for batch in range(self.sampler.first_batch(epoch), len(self)):
            index = order[batch * size : (batch + 1) * size]
            yield self.pool[index % len(self.pool)], self.labels[index]


class SyntheticEvalLoader:
    """Every sample once across processes, in order, made on `device`."""

    def __init__(self, source: SyntheticSource, batches: EvalBatches, device: torch.device) -> None:
        self.batches = batches
        self.pool = source.pool.to(device)
        self.labels = torch.from_numpy(source.labels).to(device)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        for keys in self.batches:
            index = torch.tensor([index for _, index in keys], device=self.labels.device)
            yield self.pool[index % len(self.pool)], self.labels[index]


class Synthetic(ImageData):
    """Normal images with random labels; nothing can be learnt from them.

    They are made on the trainer's device, so that a run shows what its steps take alone.

    Args (besides those of `ImageData`; mean and std are not needed, the images are normal, and
    num_workers and prefetch_factor are taken so that any recipe runs):
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

    def train_dataloader(self) -> SyntheticTrainLoader:
        """Whole shuffled batches, from where the trainer stands."""
        source = self.splits.train.source
        assert isinstance(source, SyntheticSource)
        return SyntheticTrainLoader(source, self._sampler(), self.device)

    def val_dataloader(self) -> SyntheticEvalLoader:
        """Every validation sample once across processes, in order."""
        source, (rank, world_size) = self.splits.val.source, self._place()
        assert isinstance(source, SyntheticSource)
        size = self.batch_size
        batches = EvalBatches(len(source), batch_size=size, rank=rank, world_size=world_size)
        return SyntheticEvalLoader(source, batches, self.device)
