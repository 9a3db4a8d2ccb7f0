"""Training batches that the device finishes (`data.gpu`), ahead of the step that needs them.

augment    loading processes decode and crop; policy, normalisation and erasing on the device
decode     loading processes read files; the device decodes JPEGs (nvJPEG), crops and augments

A sample's random numbers are functions of (seed, epoch, index) either way, and what becomes of it
does not depend on the others, so a resumed run repeats an uninterrupted one bit for bit.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sparsetrain.lightning.data.batch_augment import BatchAugment
from sparsetrain.lightning.data.batch_policies import batched
from sparsetrain.lightning.data.dataset import SeededImages
from sparsetrain.lightning.data.loader import Resumable
from sparsetrain.lightning.data.sampler import EpochSampler, Key
from sparsetrain.lightning.data.transforms import Augment

TOGETHER = 8
"""The most batches of loading processes that are finished at once. Each of their tensors keeps a
file open until then, and many systems allow a process 1,024 open files."""

Batch = tuple[Tensor, Tensor]
Made = tuple[Tensor, Tensor, Any]


class DeviceLoader(Resumable):
    """Batches (float32 [B, 3, H, W], int64 [B]) on the device.

    Args:
        loader: gives what loading processes make, over an `EpochSampler`.
        finish: makes one batch on the device of several of these. It runs in a thread and, on
            CUDA, on a stream of its own, while the batches before are trained on.
        together: so many batches are finished at once, which costs the host little more than one.
        word: what `data.gpu` is; a checkpoint in the middle of an epoch is resumed with the same.
    """

    def __init__(
        self,
        loader: DataLoader,
        finish: Callable[[Sequence[Any]], Batch],
        together: int,
        device: torch.device,
        word: str,
    ) -> None:
        assert isinstance(loader.sampler, EpochSampler)
        self.loader = loader
        self.sampler = loader.sampler
        self.finish = finish
        self.together = together
        self.device = device
        self.word = word

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        parts = iter(self.loader)
        thread = ThreadPoolExecutor(1, "sparsetrain-data")
        try:
            coming = thread.submit(self._make, parts, stream)
            while (made := coming.result()) is not None:
                coming = thread.submit(self._make, parts, stream)
                yield from self._taken(*made)
        finally:
            thread.shutdown(cancel_futures=True)

    def _make(self, parts: Iterator[Any], stream: torch.cuda.Stream | None) -> Made | None:
        """The next group of batches; None after the last one."""
        group = list(islice(parts, self.together))
        if not group:
            return None
        with torch.cuda.stream(stream):  # pyright: ignore[reportArgumentType] (None is no stream)
            images, labels = self.finish(group)
            return images, labels, None if stream is None else stream.record_event()

    def _taken(self, images: Tensor, labels: Tensor, done: Any) -> Iterator[Batch]:
        """Batches that the current stream may read: when they are done, as long as it wants."""
        if done is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(done)
            images.record_stream(current)
            labels.record_stream(current)
        size = self.sampler.batch_size
        return zip(images.split(size), labels.split(size), strict=True)


class Keyed(Dataset[tuple[Any, ...]]):
    """Samples with their keys: (image, label, epoch, index)."""

    def __init__(self, images: SeededImages) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Key) -> tuple[Any, ...]:
        return (*self.images[key], *key)


class Augmented:
    """Finishes batches of `Keyed` images that are cropped: uint8 [B, 3, H, W]."""

    def __init__(self, augment: BatchAugment) -> None:
        self.augment = augment

    def __call__(self, parts: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]]) -> Batch:
        device = self.augment.device
        images, labels, epochs, index = zip(*parts, strict=True)
        there = torch.cat([image.to(device, non_blocking=True) for image in images])
        augmented = self.augment(there, int(epochs[0][0]), torch.cat(index))
        return augmented, torch.cat([label.to(device, non_blocking=True) for label in labels])


def shared_out(augment: Augment) -> tuple[Augment, Augment]:
    """(what loading processes do of it, what the device does) with data.gpu=augment.

    The device takes the policy where it has a form for it, and erasing; both parts together are
    the whole.
    """
    policy = augment.auto_augment
    here = policy is not None and has_batched_form(augment)
    host = replace(augment, reprob=0.0)
    if here:
        host = replace(host, auto_augment=None, color_jitter=None)  # timm has either
    return host, replace(augment, auto_augment=policy if here else None, color_jitter=None)


def has_batched_form(augment: Augment) -> bool:
    """Whether `auto_augment` can be done on the device."""
    known = augment.interpolation in ("bilinear", "bicubic", "random")
    return known and batched(augment.auto_augment or "") is not None
