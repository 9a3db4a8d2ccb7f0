"""A part of the training images is validated on instead of being trained on."""

import numpy as np

from sparsetrain.lightning.data.dataset import Source
from sparsetrain.lightning.data.sampler import epoch_order

SPLIT_SEED = 0
"""Fixed, so that runs with different seeds are compared on the same images."""


class Part:
    """Some samples of a source, by their indices."""

    def __init__(self, source: Source, indices: np.ndarray) -> None:
        self.source = source
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int):
        return self.source.read(int(self.indices[index]))


def held_out(source: Source, fraction: float) -> tuple[Part, Part]:
    """(the rest, a random `fraction`) of a source, the same ones whatever the seed of the run.

    Raises ValueError where one of the two would be empty.
    """
    order = epoch_order(len(source), SPLIT_SEED, 0)
    count = round(fraction * len(source))
    if not 0 < count < len(source):
        raise ValueError(
            f"data.val_fraction={fraction} of {len(source):,} training images holds out {count:,}; "
            "some have to be left on each side"
        )
    return Part(source, np.sort(order[count:])), Part(source, np.sort(order[:count]))
