"""Images a second that `data.cache=gpu` augments, without a model.

    python -m scripts.bench.augment          # 32 pixels, batches of 512
    python -m scripts.bench.augment 64 256

The augmentation is that of recipe=cifar10_vit. Prints one line.
"""

import time

import torch

from scripts.bench.command import run
from sparsetrain.lightning.data import Augment, EpochSampler
from sparsetrain.lightning.data.batch_augment import BatchAugment
from sparsetrain.lightning.data.cached import CachedImages, CachedTrainLoader

AUGMENT = Augment("rand-m9-mstd0.5-inc1", 0.25, hflip=0.5, scale=(0.8, 1), interpolation="bilinear")
IMAGES = 51200
SECONDS = 5.0


def main(words: list[str]) -> None:
    if not all(word.isdecimal() for word in words) or len(words) > 2:
        raise ValueError(f"{' '.join(words)}: give pixels and images of a batch, as 64 256")
    size, batch = map(int, (words + ["32", "512"][len(words) :]))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images = torch.randint(0, 256, (IMAGES, 3, size, size), dtype=torch.uint8, device=device)
    cached = CachedImages(images, torch.zeros(IMAGES, dtype=torch.int64, device=device))
    mean, std = (0.5,) * 3, (0.25,) * 3
    augment = BatchAugment(AUGMENT, size, mean, std, 0, device)
    loader = CachedTrainLoader(cached, EpochSampler(IMAGES, batch_size=batch, seed=0), augment)
    measure(loader, 1.0, device)
    rate = measure(loader, SECONDS, device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    print(f"{rate:,.0f} images/s of {size} pixels in batches of {batch} on {name}")


def measure(loader: CachedTrainLoader, seconds: float, device: torch.device) -> float:
    """Images a second over at least so many seconds."""
    start, count = time.perf_counter(), 0
    while True:
        for images, _ in loader:
            count += len(images)
            if count % (loader.chunk * loader.batch_size):
                continue
            if device.type == "cuda":
                torch.cuda.synchronize()
            spent = time.perf_counter() - start
            if spent > seconds:
                return count / spent


if __name__ == "__main__":
    run(main, __doc__)
