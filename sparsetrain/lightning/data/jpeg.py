"""JPEGs that are decoded in whole batches, on a GPU by nvJPEG through torchvision or TorchCodec.

Loading processes read the files and look at their headers. What nvJPEG is not asked for is decoded
there by Pillow: other formats, JPEGs that are not RGB (grey, CMYK) and ones that are cut short.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from sparsetrain.lightning.data.batch_augment import BatchAugment
from sparsetrain.lightning.data.dataset import Source
from sparsetrain.lightning.data.decode import FORMATS, UNREADABLE, Decode, Encoded, orientation
from sparsetrain.lightning.data.draws import upload
from sparsetrain.lightning.data.sampler import Key
from sparsetrain.lightning.data.transforms import pixels

END = b"\xff\xd9"
"""How a whole JPEG ends; a few bytes of others may follow."""


class Part(NamedTuple):
    """One sample: a JPEG (height 0), or the pixels [3, height, width] of another image."""

    data: Tensor  # uint8, one dimension
    height: int
    width: int
    turn: int  # EXIF's orientation, of a JPEG
    label: int
    index: int
    where: str


@dataclass(frozen=True)
class Parts:
    """A batch of them; `data` one after the other."""

    data: Tensor
    lengths: list[int]
    sizes: list[tuple[int, int]]
    turns: list[int]
    labels: Tensor
    epoch: int
    index: Tensor
    where: list[str]

    def pin_memory(self) -> "Parts":
        """What DataLoader calls in a thread of its own: it would look at each number of a tuple or
        a list. Runs without it were slower (docs/performance.md)."""
        return replace(self, data=self.data.pin_memory())


class JpegParts(Dataset[tuple[int, Part]]):
    """(epoch, sample) by key, of a source of `Encoded` images."""

    def __init__(self, source: Source, decode: Decode) -> None:
        self.source = source
        self.decode = decode

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: Key) -> tuple[int, Part]:
        epoch, index = key
        image, label = self.source.read(index)
        turn = turn_of_jpeg(image)
        if turn is not None:
            data = torch.frombuffer(bytearray(image.data), dtype=torch.uint8)
            return epoch, Part(data, 0, 0, turn, label, index, image.where)
        decoded = pixels(self.decode(image))
        _, height, width = decoded.shape
        return epoch, Part(decoded.flatten(), height, width, 1, label, index, image.where)


def turn_of_jpeg(image: Encoded) -> int | None:
    """EXIF's orientation of a whole JPEG in YCbCr; None for anything else."""
    try:
        header = Image.open(io.BytesIO(image.data), formats=FORMATS)
        plain = header.mode == "RGB" and header.info.get("adobe_transform", 1) == 1
        whole = END in bytes(image.data[-64:])
        return orientation(header) if header.format in ("JPEG", "MPO") and plain and whole else None
    except UNREADABLE:
        return None


def together(samples: Sequence[tuple[int, Part]]) -> Parts:
    """The collate function of `JpegParts`."""
    parts = [part for _, part in samples]
    return Parts(
        torch.cat([part.data for part in parts]),
        [len(part.data) for part in parts],
        [(part.height, part.width) for part in parts],
        [part.turn for part in parts],
        torch.tensor([part.label for part in parts]),
        samples[0][0],
        torch.tensor([part.index for part in parts]),
        [part.where for part in parts],
    )


class DecodedAndAugmented:
    """Finishes batches of `JpegParts`. Raises ValueError where no library decodes JPEGs."""

    def __init__(self, augment: BatchAugment) -> None:
        self.augment = augment
        jpeg_decoder()  # raises here, and not amid an epoch

    def __call__(self, parts: Sequence[Parts]) -> tuple[Tensor, Tensor]:
        images = decoded_on(parts, self.augment.device)
        index = torch.cat([part.index for part in parts])
        augmented = self.augment(images, parts[0].epoch, index)
        return augmented, upload(torch.cat([part.labels for part in parts]), self.augment.device)


def jpeg_decoder() -> Callable[..., Any]:
    """`decode_jpeg` of torchvision, which deprecated it in 0.29, or else of TorchCodec."""
    for module in ("torchvision.io", "torchcodec.decoders"):
        try:
            return import_module(module).decode_jpeg
        except (ImportError, AttributeError):
            continue
    raise ValueError(
        "data.gpu=decode: this torchvision decodes no JPEGs; pip install torchcodec, or set "
        "data.gpu=augment"
    )


def decoded_on(parts: Sequence[Parts], device: torch.device) -> list[Tensor]:
    """The upright images of some batches, uint8 [3, h, w] each, on the device.

    Raises ValueError naming a JPEG that cannot be decoded.
    """
    data = [image for part in parts for image in part.data.split(part.lengths)]
    sizes = [size for part in parts for size in part.sizes]
    turns = [turn for part in parts for turn in part.turns]
    where = [name for part in parts for name in part.where]
    jpegs = [number for number, (height, _) in enumerate(sizes) if height == 0]
    images: list[Any] = [None] * len(data)
    for number, image in zip(jpegs, _decode(data, jpegs, where, device), strict=True):
        images[number] = upright(image, turns[number])
    for number, (height, width) in enumerate(sizes):
        if height:
            images[number] = upload(data[number].view(3, height, width), device)
    return images


def _decode(
    data: Sequence[Tensor], jpegs: list[int], where: list[str], device: torch.device
) -> list[Tensor]:
    if not jpegs:
        return []
    decode_jpeg = jpeg_decoder()
    if device.type == "cuda":
        # nvJPEG may write into memory that was freed on this stream before kernels queued here have
        # read it: torchvision's decoder does not wait for them (pytorch/vision#9606).
        torch.cuda.current_stream(device).synchronize()
    try:
        return decode_jpeg([data[number] for number in jpegs], mode="RGB", device=device)
    except RuntimeError:
        for number in jpegs:  # the error of a batch does not say which
            try:
                decode_jpeg([data[number]], mode="RGB", device=device)
            except RuntimeError as error:
                reason = str(error).partition("\n")[0]
                raise ValueError(
                    f"cannot decode the image {where[number]} ({len(data[number]):,} bytes) on "
                    f"{device}: {reason}; replace it, or set data.gpu=augment"
                ) from error
        raise


def upright(image: Tensor, turn: int) -> Tensor:
    """An image [3, h, w] as its EXIF orientation says, as `decode.UPRIGHT` does."""
    if turn >= 5:
        image = image.transpose(1, 2)
    mirrored = {2: (2,), 3: (1, 2), 4: (1,), 6: (2,), 7: (1, 2), 8: (1,)}.get(turn)
    return image if mirrored is None else image.flip(mirrored)
