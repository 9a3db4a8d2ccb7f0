"""Training batches that the device finishes (`data.gpu`), ahead of the step that needs them.

augment    loading processes decode and crop; RandAugment, normalisation and erasing on the device
decode     loading processes read files; the device decodes JPEGs (nvJPEG), crops and augments

A sample's random numbers are functions of (seed, epoch, index) either way, and what becomes of it
does not depend on the others, so a resumed run repeats an uninterrupted one bit for bit.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sparsetrain.lightning.data.batch_augment import BatchAugment
from sparsetrain.lightning.data.batch_layers import RandAugment
from sparsetrain.lightning.data.dataset import SeededImages
from sparsetrain.lightning.data.loader import Resumable
from sparsetrain.lightning.data.sampler import EpochSampler, Key
from sparsetrain.lightning.data.transforms import Augment

Batch = tuple[Tensor, Tensor]
Made = tuple[Any, Any]
"""What a stage gives, and the event after which it is there; the event is None on a CPU."""


class DeviceLoader(Resumable):
    """Batches (float32 [B, 3, H, W], int64 [B]) on the device.

    Args:
        loader: gives what loading processes make, over an `EpochSampler`.
        stages: functions one after the other: the first takes several of these, each other one
            what the one before gives, the last gives one batch of all. Each runs in a thread and,
            on CUDA, on a stream of its own, while others do their part for later batches and the
            batches before are trained on. Tensors in what they give are in tuples or lists.
        together: so many batches are finished at once, which costs the host little more than one.
        word: what `data.gpu` is; a checkpoint in the middle of an epoch is resumed with the same.
    """

    def __init__(
        self,
        loader: DataLoader,
        stages: Sequence[Callable[[Any], Any]],
        together: int,
        device: torch.device,
        word: str,
    ) -> None:
        assert isinstance(loader.sampler, EpochSampler)
        self.loader = loader
        self.sampler = loader.sampler
        self.stages = stages
        self.together = together
        self.device = device
        self.word = word

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        cuda = self.device.type == "cuda"
        streams = [torch.cuda.Stream(self.device) if cuda else None for _ in self.stages]
        threads = [ThreadPoolExecutor(1, "sparsetrain-data") for _ in self.stages]
        parts = iter(self.loader)

        def begin() -> Future[Made | None]:
            coming = threads[0].submit(self._group, parts)
            for thread, stage, stream in zip(threads, self.stages, streams, strict=True):
                coming = thread.submit(self._run, stage, coming, stream)
            return coming

        try:
            coming = deque(begin() for _ in self.stages)
            while (made := coming.popleft().result()) is not None:
                coming.append(begin())
                images, labels = self._taken(*made)
                size = self.sampler.batch_size
                yield from zip(images.split(size), labels.split(size), strict=True)
        finally:
            for thread in threads:
                thread.shutdown(cancel_futures=True)

    def _group(self, parts: Iterator[Any]) -> Made | None:
        """What the next batches are made of; None after the last one."""
        group = list(islice(parts, self.together))
        return (group, None) if group else None

    def _run(
        self,
        stage: Callable[[Any], Any],
        given: Future[Made | None],
        stream: torch.cuda.Stream | None,
    ) -> Made | None:
        made = given.result()
        if made is None:
            return None
        with torch.cuda.stream(stream):  # pyright: ignore[reportArgumentType] (None is no stream)
            value = stage(self._taken(*made))
            return value, None if stream is None else stream.record_event()

    def _taken(self, value: Any, done: Any) -> Any:
        """What the current stream may read: when it is done, as long as the stream wants."""
        if done is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(done)
            for tensor in _on_gpu(value):
                tensor.record_stream(current)
        return value


def _on_gpu(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor) and value.is_cuda:
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _on_gpu(item)


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

    The device takes RandAugment where it has a form for it, and erasing; both parts together are
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
    if augment.interpolation not in ("bilinear", "bicubic", "random"):
        return False
    try:
        RandAugment.parse(augment.auto_augment or "")
    except ValueError:
        return False
    return True
