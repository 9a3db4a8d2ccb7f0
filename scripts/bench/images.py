"""Images a second of the ImageNet path, from JPEGs of real size.

    python -m scripts.bench.images                     # workers: as many as there are cores
    python -m scripts.bench.images --workers 16 --batch 256 --root /tmp/photos --json images.json

Makes a folder of JPEGs like photographs (500 x 375, about 90 KB), which `--root` keeps, as for
`python -m scripts.bench.fit vit_b_24_fast --batch 256 data=imagenet data.root=/tmp/photos`. Then it
times decoding and each step of the augmentation (images for each second of one core's time), on a
GPU also nvJPEG and the augmentation of whole batches, alone; and the whole data module, with
`data.gpu` null and, on a GPU, augment and decode. The augmentation is that of the ViT recipes: a
random crop, RandAugment, erasing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from itertools import chain, cycle, islice, repeat
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg

from scripts.bench.photos import kilobytes, make_folder
from sparsetrain.cores import cores
from sparsetrain.lightning.data import Augment, ImageNet
from sparsetrain.lightning.data.batch_augment import BatchAugment
from sparsetrain.lightning.data.decode import Decode, Encoded
from sparsetrain.lightning.data.on_device import shared_out
from sparsetrain.lightning.data.transforms import to_pixels, train_transform

AUGMENT = Augment("rand-m9-mstd0.5-inc1", 0.25, hflip=0.5, scale=(0.08, 1.0))
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE = 224
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description="Images a second of the ImageNet path.")
    parser.add_argument("--workers", type=int, default=cores())
    parser.add_argument("--batch", type=int, default=256, help="images")
    parser.add_argument("--seconds", type=float, default=8.0, help="for each line")
    parser.add_argument("--distinct", type=int, default=256, help="photographs that differ")
    parser.add_argument("--copies", type=int, default=400, help="of each, in an epoch")
    parser.add_argument("--root", type=Path, help="keep the photographs there")
    parser.add_argument("--json", type=Path, help="write the rows there")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = words.root or Path(temporary) / "photos"
        make_folder(root, words.distinct, words.copies)
        name = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "no GPU"
        print(f"JPEGs of {kilobytes(root):.0f} KB, torch {torch.__version__}, {name}")
        rows: dict[str, float] = {}
        for row, rate in measured(root, words):
            rows[row] = rate
            print(f"{row:<58} {rate:>8,.0f} images/s", flush=True)
    if words.json:
        words.json.write_text(json.dumps(rows, indent=1))


def measured(root: Path, words: argparse.Namespace) -> Iterator[tuple[str, float]]:
    """(what, images/s), one after the other."""
    files = [path.read_bytes() for path in sorted((root / "val").rglob("*.jpg"))[:128]]
    yield from on_one_core(files, words.seconds)
    if DEVICE.type == "cuda":
        yield from on_the_gpu(files, words.batch, words.seconds)
    for gpu in (None, "augment", "decode")[: 3 if DEVICE.type == "cuda" else 1]:
        what = f"data module, {words.workers} workers, data.gpu={gpu or 'null'}"
        yield what, rate_of(module(root, gpu, words), words.seconds)


def on_one_core(files: list[bytes], seconds: float) -> Iterator[tuple[str, float]]:
    torch.set_num_threads(1)
    decode = Decode()
    tensors = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files]
    images = [decode(Encoded(file, "")) for file in files]
    whole = train_transform(AUGMENT, SIZE, MEAN, STD).transforms  # pyright: ignore[reportFunctionMemberAccess]
    crop, flip, policy, *rest = whole
    crops = [crop(image) for image in images]
    host = to_pixels(shared_out(AUGMENT)[0], SIZE, MEAN, STD)
    steps: list[tuple[str, Callable[[Any], Any], list[Any]]] = [
        ("Pillow decodes", lambda file: decode(Encoded(file, "")), files),
        ("torchvision decodes", lambda t: decode_jpeg(t, ImageReadMode.RGB), tensors),
        ("Pillow decodes at half size (draft)", _half, files),
        ("crop and resize, bicubic", crop, images),
        ("mirror, RandAugment", lambda image: policy(flip(image)), crops),
        ("to float32, normalise, erase", lambda image: _each(rest, image), crops),
        ("all of it (data.gpu=null)", lambda f: _each(whole, decode(Encoded(f, ""))), files),
        ("crop and resize, by PyTorch", host[0], images),
        ("decode, crop (data.gpu=augment)", lambda f: _each(host, decode(Encoded(f, ""))), files),
    ]
    for what, step, inputs in steps:
        made = map(step, cycle(inputs))
        yield f"one core: {what}", timed(made, 1, seconds / 4, clock=time.process_time)


def on_the_gpu(files: list[bytes], batch: int, seconds: float) -> Iterator[tuple[str, float]]:
    tensors = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files]
    whole = list(islice(cycle(tensors), batch))
    images = decode_jpeg(whole, ImageReadMode.RGB, DEVICE)
    index = torch.arange(batch)
    full = BatchAugment(AUGMENT, SIZE, MEAN, STD, 0, DEVICE)
    rest = BatchAugment(AUGMENT, SIZE, MEAN, STD, 0, DEVICE, crop=False)
    cropped = torch.randint(0, 256, (batch, 3, SIZE, SIZE), dtype=torch.uint8, device=DEVICE)
    steps: list[tuple[str, Callable[[int], Any]]] = [
        ("nvJPEG decodes", lambda _: decode_jpeg(whole, ImageReadMode.RGB, DEVICE)),
        ("crop, RandAugment, normalise, erase", lambda epoch: full(images, epoch, index)),
        ("RandAugment, normalise, erase", lambda epoch: rest(cropped.clone(), epoch, index)),
    ]
    for what, step in steps:
        yield f"GPU, {batch} images: {what}", timed(map(step, range(10**9)), batch, seconds / 4)


def module(root: Path, gpu: str | None, words: argparse.Namespace) -> Iterable[Any]:
    """Training batches without end, on the device."""
    data = ImageNet(
        root,
        batch_size=words.batch,
        num_workers=words.workers,
        img_size=SIZE,
        num_classes=None,
        mean=MEAN,
        std=STD,
        seed=0,
        prefetch_factor=4,
        augment=AUGMENT,
        gpu=gpu,
    )
    data.setup()
    loader = data.train_dataloader()
    return chain.from_iterable(repeat(loader))


def rate_of(batches: Iterable[Any], seconds: float) -> float:
    """Images a second that arrive on the device, after the first few batches."""
    there = (images.to(DEVICE, non_blocking=True) for images, _ in batches)
    first = next(there)
    return timed(there, len(first), seconds, warm=8)


def timed(
    made: Iterator[Any],
    images: int,
    seconds: float,
    warm: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Images a second of an iterator that makes so many at a time."""
    for _ in islice(made, warm):
        pass
    _finish()
    start, count = clock(), 0
    while clock() - start < seconds:
        next(made)
        count += images
    _finish()
    return count / (clock() - start)


def _finish() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def _half(file: bytes) -> Image.Image:
    image = Image.open(BytesIO(file))
    image.draft("RGB", (image.width // 2, image.height // 2))
    return image.convert("RGB")


def _each(steps: list[Any], value: Any) -> Any:
    for step in steps:
        value = step(value)
    return value


if __name__ == "__main__":
    main()
