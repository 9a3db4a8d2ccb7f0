"""Small sets on the device: decoded once, kept as uint8, augmented in batches (`data.cache=gpu`).

Random numbers are functions of (seed, epoch, index) as for single images, but other ones. A chunk
of several batches is augmented at once, always the same batches of an epoch and always as many
images, so a resumed run computes what the uninterrupted one did, bit for bit.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sparsetrain.lightning.data.batch_augment import BatchAugment
from sparsetrain.lightning.data.dataset import Source
from sparsetrain.lightning.data.draws import upload
from sparsetrain.lightning.data.loader import Resumable
from sparsetrain.lightning.data.sampler import EpochSampler, EvalBatches
from sparsetrain.lightning.data.transforms import Augment

Batch = tuple[Tensor, Tensor]
Prepare = Callable[[Any], Image.Image]

PART = 512
"""Images that are decoded together."""


@dataclass(frozen=True)
class Fixed:
    """The part of both transforms that is the same in each epoch, and the random rest."""

    train: Prepare
    val: Prepare
    augment: Augment


@dataclass(frozen=True)
class CachedImages:
    """uint8 [N, 3, h, w] and labels int64 [N], on one device."""

    images: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> "CachedImages":
        return CachedImages(self.images.to(device), self.labels.to(device))


def decode_all(source: Source, prepare: Prepare, workers: int) -> CachedImages:
    """Read every image of a source in so many processes; 0, or a small source: in this one.

    Raises ValueError unless `prepare` leaves all images in one size.
    """
    parts = DataLoader(
        _Decoded(source, prepare),
        batch_size=PART,
        collate_fn=_stacked,
        num_workers=workers if len(source) > 4 * PART else 0,
        generator=torch.Generator(),  # its own: the global one stays as it is
    )
    images, labels = zip(*parts, strict=True)
    odd = next((part for part in images if part.shape[1:] != images[0].shape[1:]), None)
    if odd is not None:
        raise ValueError(_other_size(images[0].shape[2:], odd.shape[2:]))
    return CachedImages(torch.cat(images), torch.cat(labels))


class _Decoded(Dataset[tuple[np.ndarray, int]]):
    """Pixels uint8 [h, w, 3] and labels; tensors are made of many at once, which is faster."""

    def __init__(self, source: Source, prepare: Prepare) -> None:
        self.source = source
        self.prepare = prepare

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        image, label = self.source.read(index)
        return np.asarray(self.prepare(image)), label


def _stacked(samples: list[tuple[np.ndarray, int]]) -> Batch:
    images, labels = zip(*samples, strict=True)
    odd = next((image for image in images if image.shape != images[0].shape), None)
    if odd is not None:
        raise ValueError(_other_size(images[0].shape[:2], odd.shape[:2]))
    images_NHW3 = torch.from_numpy(np.stack(images))
    return images_NHW3.permute(0, 3, 1, 2).contiguous(), torch.tensor(labels)


def _other_size(*sizes: Sequence[int]) -> str:
    """What to do about two images of different sizes (h, w)."""
    there = " and ".join(f"{width}x{height}" for height, width in sizes)
    return (
        f"data.cache=gpu keeps images of one size, but there are {there}; set "
        "data.augment.scale=null, which resizes them, or data.cache=null"
    )


class CachedTrainLoader(Resumable):
    """Augmented batches (float32 [B, 3, H, W], int64 [B]) on the device of the cached images."""

    def __init__(self, cached: CachedImages, sampler: EpochSampler, augment: BatchAugment) -> None:
        self.cached = cached
        self.sampler = sampler
        self.augment = augment
        self.batch_size = sampler.batch_size
        self.chunk = min(augment.batches_at_once(self.batch_size), sampler.batches)

    def __len__(self) -> int:
        """Batches of a whole epoch, also in one that is resumed, as Lightning wants it."""
        return self.sampler.batches

    def __iter__(self) -> Iterator[Batch]:
        epoch = self.sampler.epoch
        first, size = self.sampler.first_batch(epoch), self.batch_size
        order, device = torch.from_numpy(self.sampler.order(epoch)), self.cached.labels.device
        for start in range(first - first % self.chunk, len(self), self.chunk):
            places = torch.arange(start * size, (start + self.chunk) * size)
            index = order[places % len(order)]  # the last chunk is filled up, to be as large
            there = upload(index, device)
            images = self.augment(self.cached.images[there], epoch, index)
            labels = self.cached.labels[there]
            batches = list(zip(images.split(size), labels.split(size), strict=True))
            yield from batches[max(first - start, 0) : len(self) - start]


class CachedEvalLoader:
    """Normalised batches of the images as they are, every one once across processes, in order."""

    def __init__(
        self, cached: CachedImages, batches: EvalBatches, mean: Tensor, std: Tensor
    ) -> None:
        self.cached = cached
        self.batches = batches
        self.mean_C11 = mean.view(-1, 1, 1)
        self.std_C11 = std.view(-1, 1, 1)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        for keys in self.batches:
            index = torch.tensor([index for _, index in keys], device=self.cached.labels.device)
            images = self.cached.images[index].float() / 255
            yield (images - self.mean_C11) / self.std_C11, self.cached.labels[index]
