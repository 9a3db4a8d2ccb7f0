"""Which samples a process sees, in which order. Pure functions of (seed, epoch, rank).

Step k of N processes with batches of B covers exactly the samples of step k of one process with
batches of N*B: process r takes every N-th element of the epoch's order, starting at r.
"""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

Key = tuple[int, int]
"""(epoch, index): what a sampler hands to the dataset."""


def epoch_order(length: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation of `range(length)` for one epoch, int64 [length].

    From NumPy's legacy generator, whose stream is frozen (NEP 19), so an order outlives upgrades.
    """
    words = np.random.SeedSequence((seed, epoch)).generate_state(8)
    return np.random.RandomState(words).permutation(length)


class EpochSampler(Sampler[Key]):
    """Keys (epoch, index) of the training samples of one process, in whole batches.

    The remainder that does not fill a batch on every process is dropped; another permutation
    next epoch drops others.

    Args:
        length: samples in the training set.
        batch_size: samples per process and batch.
        seed: with the epoch it decides the order.
        shuffle: False keeps the order of the set.
        rank, world_size: which process this is, of how many.

    Raises:
        ValueError: fewer samples than one batch of all processes, or a rank outside the world.
    """

    def __init__(
        self,
        length: int,
        *,
        batch_size: int,
        seed: int,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        check_rank(rank, world_size)
        if batch_size * world_size > length:
            raise ValueError(
                f"data.batch_size={batch_size} on {world_size} process(es) needs "
                f"{batch_size * world_size:,} training images, but there are {length:,}; "
                f"set data.batch_size to at most {length // world_size}"
            )
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.skipped = (0, 0)

    @property
    def batches(self) -> int:
        """Batches of a whole epoch, the same on every process."""
        return self.length // (self.batch_size * self.world_size)

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next `iter` belongs to; Lightning calls it before each."""
        self.epoch = epoch

    def skip(self, epoch: int, batches: int) -> None:
        """Start `epoch`, and only that epoch, after its first `batches` batches.

        `len` stays that of the whole epoch: Lightning adds the batches done before a resume.
        """
        if not 0 <= batches <= self.batches:
            raise ValueError(f"batches={batches} is outside the epoch's 0..{self.batches}")
        self.skipped = (epoch, batches)

    def __iter__(self) -> Iterator[Key]:
        epoch = self.epoch
        mine = self.order(epoch)[self.first_batch(epoch) * self.batch_size :]
        return ((epoch, int(index)) for index in mine)

    def order(self, epoch: int) -> np.ndarray:
        """Indices of this process in a whole epoch, int64 [len(self)]."""
        order = np.arange(self.length)
        if self.shuffle:
            order = epoch_order(self.length, self.seed, epoch)
        return order[self.rank :: self.world_size][: len(self)]

    def first_batch(self, epoch: int) -> int:
        """The batch that `iter` begins with in an epoch: not 0 in the one that is resumed."""
        return self.skipped[1] if self.skipped[0] == epoch else 0

    def __len__(self) -> int:
        return self.batches * self.batch_size


class EvalBatches(Sampler[list[Key]]):
    """Batches that cover every validation sample exactly once across all processes.

    Sequential and strided. Every process has the same number of batches, because a process with
    one batch less would leave the collectives of the others waiting: one that is a sample short
    of another batch splits its last full batch in two.

    Raises:
        ValueError: samples that cannot be spread so (fewer than processes, or a remainder at
            batch size 1), or a rank outside the world.
    """

    def __init__(self, length: int, *, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        check_rank(rank, world_size)
        if length < world_size:
            raise ValueError(
                f"{length} validation image(s) cannot be split over {world_size} processes; "
                f"set trainer.devices to at most {length}"
            )
        if batch_size == 1 and length % world_size:
            raise ValueError(
                f"data.batch_size=1 cannot split {length:,} validation images evenly over "
                f"{world_size} processes; set data.batch_size to 2 or more"
            )
        self.length = length
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size

    def __iter__(self) -> Iterator[list[Key]]:
        mine = [(0, index) for index in range(self.rank, self.length, self.world_size)]
        starts = list(range(0, len(mine), self.batch_size))
        if len(starts) < len(self):
            starts.append(len(mine) - 1)
        for start, stop in zip(starts, [*starts[1:], len(mine)], strict=True):
            yield mine[start:stop]

    def __len__(self) -> int:
        return -(-self.length // (self.batch_size * self.world_size))


def check_rank(rank: int, world_size: int) -> None:
    """Raise ValueError unless 0 <= rank < world_size."""
    if not 0 <= rank < world_size:
        raise ValueError(f"rank={rank} is not in 0..{world_size - 1} (world_size={world_size})")
