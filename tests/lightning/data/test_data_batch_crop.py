"""Crops of images of several sizes: Pillow's, and the same in any batch."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps
from torch.utils._python_dispatch import TorchDispatchMode

from sparsetrain.lightning.data import Augment, batch_crop
from sparsetrain.lightning.data.batch_augment import BatchAugment
from sparsetrain.lightning.data.batch_crop import crop_each, crop_padded, crop_resize

CPU = torch.device("cpu")
SIZE = 24
# Height and width of an image, and its box.
CASES = [
    ((40, 50), (0, 0, 40, 50)),
    ((50, 40), (3, 2, 11, 9)),
    ((1, 1), (0, 0, 1, 1)),
    ((300, 20), (7, 1, 290, 19)),
    ((20, 300), (19, 0, 1, 300)),
    ((64, 64), (40, 40, 24, 24)),
    ((200, 260), (10, 20, 150, 210)),
    ((33, 47), (32, 46, 1, 1)),
]
BOXES = torch.tensor([box for _, box in CASES])
FLIP = torch.tensor([False, True] * 4)
BICUBIC = torch.tensor([False, False, True, True] * 2)


def pictures() -> list[Image.Image]:
    random = np.random.RandomState(0)
    noise = [random.randint(0, 256, (*size, 3)).astype(np.uint8) for size, _ in CASES]
    return [Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(1)) for pixels in noise]


def tensors() -> list[torch.Tensor]:
    """Not all contiguous, as turned images are not."""
    arrays = [np.asarray(image).copy() for image in pictures()]
    channels_last = [torch.from_numpy(array).permute(2, 0, 1) for array in arrays]
    return [x.contiguous() if number % 3 else x for number, x in enumerate(channels_last)]


def test_images_of_several_sizes_are_cropped_as_pillow_crops_them():
    got = crop_each(tensors(), BOXES, FLIP, SIZE, BICUBIC)
    means = []
    for image, (top, left, h, w), flip, cubic, x in zip(
        pictures(), BOXES.tolist(), FLIP.tolist(), BICUBIC.tolist(), got, strict=True
    ):
        mode = Image.Resampling.BICUBIC if cubic else Image.Resampling.BILINEAR
        want = image.crop((left, top, left + w, top + h)).resize((SIZE, SIZE), mode)
        want = np.array(ImageOps.mirror(want) if flip else want)
        off = (x.float() - torch.from_numpy(want).permute(2, 0, 1).float()).abs()
        assert float(off.max()) <= 1
        means.append(float(off.mean()))
    # Of the tall box, whose rows Pillow resizes first, every fifth value differs by 1.
    assert np.mean(means) < 0.05


def test_a_crop_of_a_padded_image_is_where_its_draws_say():
    images = torch.stack([x[:, :20, :20] for x in tensors() if min(x.shape[1:]) >= 20])
    draws = torch.tensor([[0.0, 0.0], [0.999, 0.0], [0.5, 0.5], [0.34, 0.7], [0.19, 0.999]])
    padded = torch.nn.functional.pad(images, (2,) * 4)
    places = [(0, 0), (4, 0), (2, 2), (1, 3), (0, 4)]
    got = crop_padded(images[: len(draws)], draws, padding=2)
    for x, crop, (top, left) in zip(padded, got, places, strict=False):
        assert torch.equal(crop, x[:, top : top + 20, left : left + 20])


def test_batches_are_cropped_out_of_padded_images_in_all_places_alike():
    augment = Augment(crop_padding=1)
    whole = BatchAugment(Augment(), 8, (0.0,) * 3, (1.0,) * 3, 0, CPU)
    shifted = BatchAugment(augment, 8, (0.0,) * 3, (1.0,) * 3, 0, CPU)
    image = torch.randint(1, 256, (3, 8, 8), dtype=torch.uint8)
    images, index = image.expand(1800, 3, 8, 8), torch.arange(1800)
    padded = torch.nn.functional.pad(whole(images[:1], 0, index[:1])[0], (1,) * 4)
    got = shifted(images, 0, index)
    count = [
        int((got == padded[:, top : top + 8, left : left + 8]).all(3).all(2).all(1).sum())
        for top in range(3)
        for left in range(3)
    ]
    assert sum(count) == 1800
    assert 150 < min(count) <= max(count) < 250  # 200 ± 13.3
    assert torch.equal(got[900:], shifted(images[900:], 0, index[900:]))


def test_a_crop_is_the_same_in_any_batch(monkeypatch):
    images = tensors()
    together = crop_each(images, BOXES, FLIP, SIZE, BICUBIC)
    for number, image in enumerate(images):
        one = slice(number, number + 1)
        alone = crop_each([image], BOXES[one], FLIP[one], SIZE, BICUBIC[one])
        assert torch.equal(alone, together[one])
        as_tensor = crop_resize(image[None].float(), BOXES[one], FLIP[one], SIZE, BICUBIC[one])
        assert torch.equal(as_tensor.to(torch.uint8), together[one])
    for part_bytes in (1, 30_000, 200_000):
        monkeypatch.setattr(batch_crop, "PART_BYTES", part_bytes)
        assert torch.equal(crop_each(images, BOXES, FLIP, SIZE, BICUBIC), together)


def test_products_are_exact():
    x = torch.randint(0, 256, (4, 3, 200, 260)).float()
    box = torch.tensor([(0, 0, 200, 260), (3, 5, 150, 99), (9, 9, 7, 8), (0, 0, 24, 24)])
    bicubic = torch.tensor([True, False, True, True])
    for filters, length in zip(
        batch_crop._filters(box, bicubic, SIZE, bicubic, CPU), (200, 260), strict=True
    ):
        assert torch.equal(filters.weight, filters.weight.half().float())  # 11 bits, as TF32 has
        matrix = batch_crop._matrix(filters.pixel, filters.weight, length)
        rows = x.transpose(2, 3) if length == 200 else x
        for dtype in (torch.float32, torch.float64):
            product = rows.to(dtype) @ matrix[:, None].mT.to(dtype)
            whole = product * 2**13
            assert torch.equal(whole, whole.round())
        assert torch.equal((rows @ matrix[:, None].mT).double(), product)


@pytest.mark.parametrize("bicubic", [False, True])
def test_a_flat_image_stays_flat(bicubic):
    lengths = torch.tensor([1, 2, 3, 5, 11, 23, 24, 25, 100, 333, 1001, 4000])
    box = torch.stack((lengths * 0, lengths * 0, lengths, lengths.flip(0)), dim=1)
    values = torch.tensor([255, 254, 1, 128] * 3)
    images = [
        torch.full((3, h, w), value, dtype=torch.uint8)
        for (_, _, h, w), value in zip(box.tolist(), values.tolist(), strict=True)
    ]
    got = crop_each(images, box, values > 0, SIZE, torch.full((12,), bicubic))
    assert torch.equal(got, values.to(torch.uint8).view(12, 1, 1, 1).expand_as(got))


class Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def test_more_images_are_not_more_operations():
    def operations(count: int) -> int:
        images = [torch.zeros(3, 20 + i % 30, 50 - i % 30, dtype=torch.uint8) for i in range(count)]
        augment = BatchAugment(Augment(scale=(0.3, 1.0)), SIZE, (0.5,) * 3, (0.5,) * 3, 0, CPU)
        with Operations() as operations:
            augment(images, 0, torch.arange(count))
        return operations.count

    assert operations(200) == operations(10)


def test_resized_images_of_several_sizes_are_mirrored():
    plain, mirrored = (
        BatchAugment(Augment(hflip=flip), SIZE, (0.5,) * 3, (0.5,) * 3, 0, CPU)(
            tensors(), 0, torch.arange(8)
        )
        for flip in (0.0, 1.0)
    )
    assert torch.equal(mirrored, plain.flip(3))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["highest", "high"])
def test_a_gpu_crops_bit_for_bit_as_the_cpu_does(precision):
    there = [image.cuda() for image in tensors()]
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        got = crop_each(there, BOXES, FLIP, SIZE, BICUBIC)
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(got.cpu(), crop_each(tensors(), BOXES, FLIP, SIZE, BICUBIC))


@pytest.mark.gpu
def test_a_batch_of_photographs_takes_less_than_a_gigabyte_beside_them():
    images = [torch.zeros(3, 375, 500, dtype=torch.uint8, device="cuda") for _ in range(256)]
    box = torch.tensor([[0, 0, 375, 500]]).expand(256, 4)
    no = torch.zeros(256, dtype=torch.bool)
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    crop_each(images, box, no, 224, ~no)
    assert torch.cuda.max_memory_allocated() - held < 2**30
