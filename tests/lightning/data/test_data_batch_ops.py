"""Batched image operations give what Pillow gives for each image alone."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops, ImageEnhance, ImageFilter, ImageOps

from sparsetrain.lightning.data import batch_ops as ops
from sparsetrain.lightning.data.batch_crop import crop_resize


def picture(seed: int, size: tuple[int, int] = (20, 24), smooth: bool = False) -> Image.Image:
    pixels = np.random.RandomState(seed).randint(0, 200 + seed, (*size, 3)).astype(np.uint8)
    image = Image.fromarray(pixels)
    return image.filter(ImageFilter.GaussianBlur(2)) if smooth else image


def batch(images: list[Image.Image]) -> torch.Tensor:
    arrays = np.stack([np.asarray(image) for image in images])
    return torch.from_numpy(arrays).permute(0, 3, 1, 2).float()


def furthest(got: torch.Tensor, want: list[Image.Image]) -> float:
    """The largest difference of a value from 0 to 255."""
    return float((got - batch(want)).abs().max())


IMAGES = [picture(seed) for seed in range(4)]
X = batch(IMAGES)
FLAT = [Image.new("RGB", (24, 20), (7, 7, 200))]


@pytest.mark.parametrize("bicubic", [False, True])
@pytest.mark.parametrize("size", [9, 16, 32])
def test_a_crop_is_resized_as_pillow_resizes_it(bicubic, size):
    boxes = [(0, 0, 20, 24), (3, 2, 10, 20), (1, 5, 19, 7), (10, 10, 5, 5)]
    mode = Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR
    want = [
        image.crop((left, top, left + w, top + h)).resize((size, size), mode)
        for image, (top, left, h, w) in zip(IMAGES, boxes, strict=True)
    ]
    flip = torch.tensor([False, True, False, True])
    want = [ImageOps.mirror(w) if f else w for w, f in zip(want, flip, strict=True)]
    got = crop_resize(X, torch.tensor(boxes), flip, size, torch.full((4,), bicubic))
    # Pillow takes rows first where that is less work, and cuts overshoots off in between.
    assert ((got - batch(want)).abs() > 1).float().mean() < 0.01


def test_an_affine_map_reads_where_pillow_reads():
    matrices = [(1, 0.2, 0, 0, 1, 0), (1, 0, -3.5, 0, 1, 0), (0.9, 0.3, 1, -0.3, 0.9, 2)]
    fill = (11, 22, 33)
    images = [picture(seed, smooth=True) for seed in range(3)]
    want = [
        image.transform(
            image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=fill
        )
        for image, matrix in zip(images, matrices, strict=True)
    ]
    got = ops.affine(batch(images), torch.tensor(matrices), torch.tensor(fill).float(), "bilinear")
    assert furthest(got, want) <= 1


def test_the_affine_map_that_moves_nothing_changes_nothing():
    same = torch.tensor([[1.0, 0, 0, 0, 1, 0]] * 4)
    for mode in ("bilinear", "bicubic"):
        assert torch.equal(ops.affine(X, same, torch.zeros(3), mode), X)


def test_gray_is_pillows():
    assert (
        furthest(ops.gray(X).expand(4, 3, 20, 24), [i.convert("L").convert("RGB") for i in IMAGES])
        == 0
    )


@pytest.mark.parametrize("factor", [0.1, 0.55, 1.0, 1.9])
def test_blending_is_what_pillows_enhancers_do(factor):
    factors = torch.full((4,), factor)
    color = [ImageEnhance.Color(image).enhance(factor) for image in IMAGES]
    assert furthest(ops.blend(ops.gray(X), X, factors), color) <= 1
    sharp = [ImageEnhance.Sharpness(image).enhance(factor) for image in IMAGES]
    assert furthest(ops.blend(ops.smooth(X), X, factors), sharp) <= 1


@pytest.mark.parametrize("images", [IMAGES, [*IMAGES, *FLAT]])
def test_tables_are_pillows(images):
    x = batch(images)
    counts = ops.histogram(x)
    assert (
        furthest(ops.look_up(x, ops.equalize_table(counts)), list(map(ImageOps.equalize, images)))
        == 0
    )
    stretched = ops.look_up(x, ops.autocontrast_table(counts))
    assert furthest(stretched, list(map(ImageOps.autocontrast, images))) <= 1
    assert furthest(255 - x, list(map(ImageChops.invert, images))) == 0
