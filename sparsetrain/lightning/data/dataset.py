"""One key (epoch, index) -> one sample, whose random numbers depend on nothing else."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sparsetrain.lightning.data.sampler import Key

Transform = Callable[[Any], Tensor]


class Source(Protocol):
    """Images and labels by index, without any randomness."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> tuple[Any, int]:
        """(what the transform takes, label) of one sample."""
        ...


class SeededImages(Dataset[tuple[Tensor, int]]):
    """A source with a random transform made reproducible.

    `images[(epoch, index)]` is (float32 [3, H, W], label). Python's, NumPy's and PyTorch's CPU
    generators are seeded from (seed, epoch, index) around the transform and restored after it.

    Raises:
        TypeError: for a key that is not (epoch, index), as when a trainer replaced the sampler.
    """

    def __init__(self, source: Source, transform: Transform, seed: int) -> None:
        self.source = source
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: Key) -> tuple[Tensor, int]:
        if not isinstance(key, tuple):
            raise TypeError(
                f"key={key!r} is not (epoch, index), so the sampler was replaced; give Trainer "
                "use_distributed_sampler=False, and limit_train_batches for overfit_batches"
            )
        epoch, index = key
        image, label = self.source.read(index)
        with seeded(self.seed, epoch, index):
            return self.transform(image), label


@contextmanager
def seeded(seed: int, epoch: int, index: int) -> Iterator[None]:
    """Seed the three CPU generators from the arguments, and put their states back at the end.

    About 0.1 ms. GPU generators are not touched, which `torch.manual_seed` would do.
    """
    words = np.random.SeedSequence((seed, epoch, index)).generate_state(8)
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    random.seed(words.tobytes())
    np.random.seed(words)
    torch.default_generator.manual_seed(int(words[0]) << 32 | int(words[1]))
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.default_generator.set_state(states[2])
