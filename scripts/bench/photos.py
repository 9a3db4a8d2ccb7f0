"""A folder of JPEGs like photographs: 500 x 375 pixels, about 90 KB each, spectrum 1 / f^1.2."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 500, 375
"""The most frequent size of ImageNet's training images."""
DECAY, CONTRAST, COMMON = 1.2, 50, 0.8
CLASSES = 10


def photo(seed: int) -> Image.Image:
    """Noise with a photograph's spectrum and colours that go together."""
    random = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None])
    frequency[0, 0] = np.inf
    channels = []
    for _ in range(4):
        spectrum = np.fft.rfft2(random.standard_normal((HEIGHT, WIDTH))) / frequency**DECAY
        plane = np.fft.irfft2(spectrum, (HEIGHT, WIDTH))
        channels.append(plane / plane.std())
    light, *colours = channels
    pixels = np.stack([COMMON * light + (1 - COMMON) * colour for colour in colours], axis=-1)
    return Image.fromarray(np.clip(128 + CONTRAST * pixels, 0, 255).astype(np.uint8))


def make_folder(root: Path, distinct: int, copies: int) -> None:
    """Write `distinct` photographs into root/train/<class>, each so many times, as hard links, and
    a few into root/val; does nothing where root/train is there."""
    if (root / "train").is_dir():
        return
    for split in ("train", "val"):
        for label in range(CLASSES):
            (root / split / f"{label}").mkdir(parents=True)
    for number in range(distinct):
        label = f"{number % CLASSES}"
        first = root / "val" / label / f"{number}.jpg"
        photo(number).save(first, quality=90)
        for copy in range(copies):
            os.link(first, root / "train" / label / f"{number}-{copy}.jpg")


def kilobytes(root: Path) -> float:
    """The mean size of the photographs."""
    sizes = [path.stat().st_size for path in (root / "val").rglob("*.jpg")]
    return sum(sizes) / len(sizes) / 1000
