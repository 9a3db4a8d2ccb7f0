"""The LightningDataModule that all data sets here share."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from sparsetrain.lightning.data.batch_augment import BatchAugment
from sparsetrain.lightning.data.cached import (
    CachedEvalLoader,
    CachedImages,
    CachedTrainLoader,
    Fixed,
    decode_all,
)
from sparsetrain.lightning.data.dataset import SeededImages
from sparsetrain.lightning.data.loader import (
    Resumable,
    TrainLoader,
    settle_finished_epoch,
    train_position,
)
from sparsetrain.lightning.data.sampler import EpochSampler, EvalBatches
from sparsetrain.lightning.data.transforms import Augment
from sparsetrain.lightning.data.workers import Loader, outlast_sigterm
from sparsetrain.lightning.flavour import pl


@dataclass(frozen=True)
class Splits:
    """A data set that is ready to be loaded: what `ImageData.load` returns."""

    train: SeededImages
    val: SeededImages
    class_names: tuple[str, ...] | None
    num_classes: int


class ImageData(pl.LightningDataModule, ABC):
    """Batches (images float32 [B, 3, H, W], labels int64 [B]) in a reproducible order.

    Rank, world size and the place to resume from are read off the trainer. Use it with
    `Trainer(use_distributed_sampler=False)`; a replaced sampler raises.

    Args:
        batch_size: images per process and step.
        num_workers: loading processes per training process; 0 loads in the training process.
        img_size: edge of the square images, in pixels.
        num_classes: outputs of the model; None for as many as the data set has, known after setup.
        mean, std: of each channel, subtracted from and divided into values in [0, 1].
        seed: with epoch and index it decides order and augmentation.
        prefetch_factor: batches loaded ahead per worker.
        cache: "gpu" decodes every image once, in `num_workers` processes, and keeps it on the
            trainer's device (a GPU, else the CPU), where batches are augmented. None is off.

    Raises:
        ValueError, FileNotFoundError: one line that names the argument, its value and what to do.
    """

    label = "data"

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
        cache: str | None = None,
    ) -> None:
        super().__init__()
        if cache not in (None, "gpu"):
            raise ValueError(f"data.cache={cache!r}: give gpu or null")
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("num_workers", num_workers, 0),
            ("img_size", img_size, 1),
            ("num_classes", 1 if num_classes is None else num_classes, 1),
            ("seed", seed, 0),
            ("prefetch_factor", prefetch_factor, 1),
        ):
            if value < least:
                raise ValueError(f"data.{name}={value} must be at least {least}")
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.img_size = img_size
        self.wanted_classes = num_classes
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.seed = seed
        self.prefetch_factor = prefetch_factor
        self.cache = cache
        self.notes: tuple[str, ...] = ()  # lines for the user, complete after setup
        self._splits: Splits | None = None
        self._cached: dict[str, CachedImages] = {}  # by split

    @abstractmethod
    def load(self) -> Splits:
        """Open the data set; called once per process."""

    def fixed(self) -> Fixed:
        """What of the transforms is done once, for data sets that can be cached."""
        raise ValueError(
            f"data.cache={self.cache} is not offered for {type(self).__name__}; set data.cache=null"
        )

    def setup(self, stage: str | None = None) -> None:
        """Open both splits. Further calls, for any stage, do nothing."""
        if self._splits is None:
            self._splits = self.load()

    @property
    def splits(self) -> Splits:
        if self._splits is None:
            raise RuntimeError(f"{type(self).__name__} is not open yet; call setup() first")
        return self._splits

    @property
    def num_train(self) -> int:
        return len(self.splits.train)

    @property
    def num_classes(self) -> int:
        """Outputs the model needs: what was asked for, else what the data set has."""
        return self.wanted_classes or self.splits.num_classes

    @property
    def class_names(self) -> list[str] | None:
        names = self.splits.class_names
        return None if names is None else list(names)

    @property
    def name(self) -> str:
        """As "digits (1,437 train / 360 val)"."""
        return f"{self.label} ({self.num_train:,} train / {len(self.splits.val):,} val)"

    def train_dataloader(self) -> Any:
        """Whole shuffled batches, from where the trainer stands."""
        sampler = self._sampler()
        if self.cache:
            return self._cached_train(sampler)
        return self.train_loader(sampler)

    def train_loader(self, sampler: EpochSampler) -> Resumable:
        """Batches that loading processes make, if the data module knows no other way."""
        return TrainLoader(
            self.splits.train,
            batch_size=self.batch_size,
            sampler=sampler,
            drop_last=True,
            **self.options(),
        )

    def val_dataloader(self) -> Loader | CachedEvalLoader:
        """Every validation sample once across processes, in order."""
        rank, world_size = self._place()
        batches = EvalBatches(
            len(self.splits.val), batch_size=self.batch_size, rank=rank, world_size=world_size
        )
        if self.cache:
            cached = self._on_device("val")
            mean, std = (torch.tensor(v, device=self.device) for v in (self.mean, self.std))
            return CachedEvalLoader(cached, batches, mean, std)
        return Loader(self.splits.val, batch_sampler=batches, **self.options())

    def _sampler(self) -> EpochSampler:
        """The order of training samples, from where the trainer stands."""
        rank, world_size = self._place()
        sampler = EpochSampler(
            self.num_train,
            batch_size=self.batch_size,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
        )
        if self.trainer is not None:
            settle_finished_epoch(self.trainer)
            position = train_position(self.trainer)
            sampler.set_epoch(position.epoch)
            sampler.skip(position.epoch, position.batch)
        return sampler

    def _cached_train(self, sampler: EpochSampler) -> CachedTrainLoader:
        cached = self._on_device("train")
        return CachedTrainLoader(cached, sampler, self.on_device(self.fixed().augment))

    def on_device(self, augment: Augment, crop: bool = True) -> BatchAugment:
        """`augment` for batches on the trainer's device."""
        return BatchAugment(
            augment, self.img_size, self.mean, self.std, self.seed, self.device, crop
        )

    def placement(self, device: torch.device) -> tuple[str, ...]:
        """Lines for the user: what is done on the device of a run that is not as asked, or that
        nobody asked for."""
        if self.cache is None or device.type == "cuda":
            return ()
        return (
            f"data.cache={self.cache}: images stay in memory, as the device is a {device.type}",
        )

    def _on_device(self, split: Literal["train", "val"]) -> CachedImages:
        """The images of a split on the trainer's device, decoded at the first call."""
        if split not in self._cached:
            fixed = self.fixed()
            prepare = fixed.train if split == "train" else fixed.val
            source = getattr(self.splits, split).source
            self._cached[split] = decode_all(source, prepare, self.num_workers)
        self._cached[split] = self._cached[split].to(self.device)
        return self._cached[split]

    @property
    def device(self) -> torch.device:
        """The trainer's; without one a GPU, if there is one."""
        if self.trainer is not None:
            return self.trainer.strategy.root_device
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def _place(self) -> tuple[int, int]:
        """(rank, world size); a module without a trainer is alone."""
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size

    def options(self) -> dict[str, Any]:
        """Of every DataLoader here."""
        return {
            "num_workers": self.num_workers,
            "pin_memory": torch.cuda.is_available(),
            "persistent_workers": self.num_workers > 0,
            "worker_init_fn": outlast_sigterm,
            "prefetch_factor": self.prefetch_factor if self.num_workers > 0 else None,
            # Its own, because making an iterator draws from the global generator otherwise, and
            # a resumed run makes a different number of them.
            "generator": torch.Generator().manual_seed(self.seed),
        }


def check_class_count(count: int, num_classes: int | None, where: str) -> None:
    """Raise ValueError unless the data set and the model, if it says, have as many classes."""
    if num_classes is not None and count != num_classes:
        raise ValueError(
            f"{where} has {count} classes but model.num_classes={num_classes}; "
            f"set model.num_classes={count} for a new run, or give data of {num_classes}"
        )


def check_labels(labels: np.ndarray, num_classes: int, where: str) -> None:
    """Raise ValueError if a label is outside [0, num_classes), naming the first such sample."""
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        first, low, high = wrong[0], labels.min(), labels.max()
        fix = f"set model.num_classes={high + 1}" if low >= 0 else "drop the negative labels"
        raise ValueError(
            f"{where}: label {labels[first]} of sample {first:,} is not below "
            f"model.num_classes={num_classes} and at least 0; labels run {low}..{high}: {fix}"
        )
