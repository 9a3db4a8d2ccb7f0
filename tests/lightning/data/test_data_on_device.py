"""`data.gpu`: the samples of the other path, the distribution of its augmentation, exact resume.

torchvision's decoder on the CPU stands in for nvJPEG.
"""

import os
import resource
import sys
import threading
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision.io
from data_helpers import COMMON, encoded
from PIL import Image, ImageFilter
from test_data_cached import fit, moments
from torch.utils.data._utils.pin_memory import pin_memory

from sparsetrain.lightning.data import Augment, ImageNet, batch_augment
from sparsetrain.lightning.data.batch_augment import BatchAugment
from sparsetrain.lightning.data.decode import ORIENTATION, UPRIGHT, Decode, Encoded
from sparsetrain.lightning.data.jpeg import (
    JpegParts,
    decoded_on,
    jpeg_decoder,
    together,
    upright,
)
from sparsetrain.lightning.data.loader import TrainLoader
from sparsetrain.lightning.data.on_device import shared_out
from sparsetrain.lightning.data.transforms import train_transform

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
]

STRONG = Augment("rand-m9-mstd0.5-inc1", reprob=0.25, hflip=0.5, scale=(0.3, 1.0))
CPU = torch.device("cpu")
WORDS = ("augment", "decode")


@pytest.fixture
def photos(tmp_path):
    """24 training images of several sizes and formats in two classes, 2 for validation."""
    for split, count in (("train", 12), ("val", 1)):
        for label, name in enumerate(("cat", "dog")):
            folder = tmp_path / "set" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                kind = "PNG" if i % 4 == 3 else "JPEG"
                image = encoded(20 * label + i, kind, (20 + i, 30 - i))
                (folder / f"{i:02}.{kind.lower()}").write_bytes(image)
    return tmp_path / "set"


def data(root, gpu, augment=STRONG, **changed) -> ImageNet:
    module = ImageNet(root, augment=augment, gpu=gpu, **{**COMMON, "batch_size": 4, **changed})
    module.setup()
    return module


def batches(module):
    return list(module.train_dataloader())


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("at_once", [1, 4, 100])
def test_a_run_resumed_after_any_step_sees_the_same_pixels(
    photos, tmp_path, monkeypatch, word, at_once
):
    monkeypatch.setattr(batch_augment, "CHUNK_PIXELS", at_once * 4 * 16 * 16)
    saved = tmp_path / "saved"
    whole = fit(saved, data(photos, word))
    assert len(whole) == 18
    for path in sorted(saved.iterdir())[::5]:
        step = torch.load(path, weights_only=False)["global_step"]
        assert fit(tmp_path / "again", data(photos, word), path) == whole[step:], path.name


def test_batches_that_wait_leave_files_to_open(photos):
    there = len(os.listdir("/proc/self/fd"))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    module = data(photos, "augment", batch_size=1, num_workers=1)
    resource.setrlimit(resource.RLIMIT_NOFILE, (there + 70, limits[1]))
    try:
        assert len(batches(module)) == 24
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_an_error_on_the_way_reaches_the_run_and_ends_the_thread(photos):
    loader = data(photos, "decode").train_dataloader()

    def fails(value):
        raise ValueError("this one")

    loader.finish = fails
    with pytest.raises(ValueError, match="this one"):
        next(iter(loader))
    assert not [t for t in threading.enumerate() if t.name.startswith("sparsetrain-data")]


def test_resuming_mid_epoch_on_another_path_is_refused(photos, tmp_path):
    fit(tmp_path / "saved", data(photos, "augment"))
    with pytest.raises(ValueError, match=r"data\.gpu augment -> null"):
        fit(tmp_path / "again", data(photos, None), tmp_path / "saved" / "epoch=0-step=2.ckpt")


@pytest.mark.parametrize("word", WORDS)
def test_workers_and_processes_change_no_sample(photos, word):
    def of_process(rank, size, world):
        module = data(photos, word, batch_size=size)
        module._place = lambda: (rank, world)
        return batches(module)

    whole = of_process(0, 8, 1)
    for one, first, second in zip(whole, of_process(0, 4, 2), of_process(1, 4, 2), strict=True):
        for both, a, b in zip(one, first, second, strict=True):
            torch.testing.assert_close(both, torch.stack((a, b), dim=1).flatten(0, 1))
    helped = batches(data(photos, word, batch_size=8, num_workers=1))
    for one, other in zip(whole, helped, strict=True):
        assert all(map(torch.equal, one, other))


@pytest.mark.parametrize(
    ("word", "augment"),
    [
        ("augment", Augment(scale=(0.3, 1.0), hflip=0.5, interpolation="random")),
        ("augment", Augment(color_jitter=0.4)),
        ("augment", Augment("3a", color_jitter=0.3, hflip=0.5, scale=(0.5, 1.0))),
        ("decode", Augment()),
    ],
    ids=str,
)
def test_what_loading_processes_do_is_that_of_the_reference(photos, word, augment):
    for (images, labels), (want, same) in zip(
        batches(data(photos, word, augment)), batches(data(photos, None, augment)), strict=True
    ):
        assert torch.equal(labels, same)
        # In values of 0..255: one of rounding, and decoders differ by a few.
        off = (images - want).abs() * 0.5 * 255
        assert float(off.max()) < (2.01 if word == "augment" else 8)
        assert float(off.mean()) < 1


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_crops_of_several_sizes_are_distributed_as_pillows(interpolation):
    augment = Augment(scale=(0.2, 0.8), hflip=0.5, interpolation=interpolation)
    pixels = np.random.RandomState(0).randint(0, 256, (36, 30, 3)).astype(np.uint8)
    image = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(1.5))
    count, mean, std = 1200, (0.5, 0.4, 0.6), (0.2, 0.3, 0.25)
    one = train_transform(augment, 20, mean, std)
    torch.manual_seed(0)
    want = torch.stack([one(image) for _ in range(count)])
    x = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
    got = BatchAugment(augment, 20, mean, std, 0, CPU)([x] * count, 0, torch.arange(count))
    torch.testing.assert_close(moments(got), moments(want), atol=0.05, rtol=0.05)


class Listed:
    def __init__(self, *images: bytes) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index):
        return Encoded(self.images[index], f"photo {index}"), index


def on_device(*images: bytes):
    samples = JpegParts(Listed(*images), Decode())
    return decoded_on([together([samples[(0, i)] for i in range(len(images))])], CPU)


def photo(kind="JPEG", mode="RGB", **options) -> bytes:
    pixels = np.random.RandomState(1).randint(0, 256, (5, 7, 3)).astype(np.uint8)
    image = Image.fromarray(pixels).resize((56, 40), Image.Resampling.BICUBIC).convert(mode)
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_images_of_any_kind_are_decoded_as_pillow_decodes_them():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    images = (
        photo(quality=95),
        photo(quality=95, progressive=True),
        photo(mode="L"),
        photo(mode="CMYK"),
        photo("PNG"),
        photo("PNG", "RGBA"),
        photo(quality=95, exif=exif),
        photo(quality=95) + b"\0" * 8,
    )
    for image, got in zip(images, on_device(*images), strict=True):
        want = torch.from_numpy(np.array(Decode()(Encoded(image, "")))).permute(2, 0, 1)
        assert got.shape == want.shape
        assert float((got.float() - want.float()).abs().max()) <= 4


@pytest.mark.parametrize("turn", UPRIGHT)
def test_a_tensor_is_turned_as_an_image_is(turn):
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    want = np.asarray(Image.fromarray(pixels).transpose(UPRIGHT[turn]))
    got = upright(torch.from_numpy(pixels).permute(2, 0, 1), turn)
    assert got.permute(1, 2, 0).tolist() == want.tolist()


def test_only_the_bytes_of_a_batch_are_pinned(monkeypatch):
    samples = JpegParts(Listed(photo(), photo()), Decode())
    parts = together([samples[(0, 0)], samples[(0, 1)]])
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: pinned.append(len(x)) or x)
    assert pin_memory(parts).lengths == parts.lengths
    assert pinned == [sum(parts.lengths)]


def test_torchcodec_decodes_where_torchvision_does_not(photos, monkeypatch):
    codec = SimpleNamespace(decode_jpeg=torchvision.io.decode_jpeg)
    monkeypatch.delattr(torchvision.io, "decode_jpeg")
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(ValueError, match=r"data\.gpu=decode: .*pip install torchcodec"):
        data(photos, "decode").train_dataloader()
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", codec)
    assert jpeg_decoder() is codec.decode_jpeg


def test_a_damaged_jpeg_is_named():
    whole = photo()
    with pytest.raises(ValueError, match=r"cannot decode the image photo 1 .*replace or remove it"):
        on_device(whole, whole[: len(whole) // 2])
    head = whole.index(b"\xff\xc4")  # Huffman tables
    broken = whole[: head + 4] + bytes(20) + whole[head + 24 :]
    with pytest.raises(ValueError, match=r"cannot decode the image photo 1 .*on cpu: .*replace it"):
        on_device(whole, broken)


def test_both_parts_are_the_whole_augmentation():
    host, there = shared_out(STRONG)
    assert (host.auto_augment, host.reprob, host.scale) == (None, 0.0, (0.3, 1.0))
    assert (there.auto_augment, there.reprob) == (STRONG.auto_augment, 0.25)
    host, there = shared_out(Augment("3a", color_jitter=0.3))
    assert (host.auto_augment, host.color_jitter, there.auto_augment) == ("3a", 0.3, None)


def test_auto_is_augment_on_a_gpu_and_nothing_elsewhere(photos):
    module = data(photos, "auto")
    assert isinstance(module.train_loader(module.train_dataloader().sampler), TrainLoader)
    assert module.placement(CPU) == ()
    assert module.placement(torch.device("cuda", 0)) == (
        "data.gpu=auto: of the training images on cuda:0: RandAugment, normalisation, erasing",
    )


def test_words_that_do_not_fit_are_refused(photos):
    with pytest.raises(ValueError, match=r"data\.gpu='nvjpeg': give auto, augment, decode or null"):
        data(photos, "nvjpeg")
    with pytest.raises(ValueError, match=r"data\.cache=gpu augments on the GPU already"):
        data(photos, "decode", cache="gpu")
    with pytest.raises(ValueError, match="auto_augment='3a' has no form on the GPU"):
        data(photos, "decode", Augment("3a")).train_dataloader()


@pytest.mark.gpu
@pytest.mark.parametrize("word", WORDS)
def test_a_gpu_gives_the_batches_of_the_cpu_and_the_same_ones_again(photos, word, monkeypatch):
    plain = Augment(hflip=0.5, scale=(0.3, 1.0))
    there, again = (batches(data(photos, word, plain)) for _ in range(2))
    monkeypatch.setattr(ImageNet, "device", CPU)
    for here, first, second in zip(batches(data(photos, word, plain)), there, again, strict=True):
        assert torch.equal(first[0], second[0])
        # In values of 0..255; the images are noise, and nvJPEG spreads colour otherwise.
        off = (first[0].cpu() - here[0]).abs().mean() * 0.5 * 255
        assert float(off) < (0.5 if word == "augment" else 12)


@pytest.mark.gpu
def test_decoding_leaves_memory_alone_that_queued_kernels_are_still_to_read():
    device = torch.device("cuda")
    parts = together([JpegParts(Listed(photo(quality=95)), Decode())[(0, 0)]])
    size = decoded_on([parts], device)[0].numel()
    for _ in range(20):
        freed = [torch.full((size,), 7, dtype=torch.uint8, device=device) for _ in range(64)]
        torch.cuda.synchronize()
        torch.cuda._sleep(20_000_000)  # cycles: 10 ms
        sums = [held.sum(dtype=torch.int64) for held in freed]
        del freed
        decoded_on([parts], device)
        assert torch.stack(sums).tolist() == [7 * size] * 64
