"""An encoded image becomes RGB pixels, as a viewer shows it.

16 bits a channel are scaled to 8, EXIF's orientation is applied, and transparent pixels lie over a
background colour. Pillow decodes, in this process.
"""

import io
import struct
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, TiffImageFile

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""What is decoded, by content. Pillow reads more formats, and for EPS it runs the program `gs`."""

SUFFIXES = (
    *(".jpeg", ".jpg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
"""Names of files in these formats."""

WHITE = (255, 255, 255)
WHITE_IS_ZERO = 0
"""A value of TIFF's tag PhotometricInterpretation (TIFF 6.0, section 4)."""
ORIENTATION = 0x0112
"""EXIF's tag. Its values and what turns each upright: Exif 2.32, 4.6.4 A."""
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# What Pillow's decoders raise: unidentified and truncated files, broken PNG chunks, bad headers.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


class Encoded(NamedTuple):
    """The bytes of an image file, and where they are, for an error: "/set/train/cat/0.jpg"."""

    data: bytes | memoryview
    where: str


class Decode:
    """Encoded -> PIL RGB image.

    Args:
        background: the colour under transparent pixels, three whole numbers in 0..255.
        shortest: JPEGs are decoded at 1/2, 1/4 or 1/8 of their size where their shorter edge keeps
            so many pixels, which takes a third of the time; None is never.

    Raises:
        ValueError: a `background` that is no colour; when called, data that is not an image of
            FORMATS, one cut short, or one of 32 bits a channel, naming where it is.
    """

    def __init__(self, background: Sequence[int] = WHITE, shortest: int | None = None) -> None:
        if len(background) != 3 or not all(0 <= value <= 255 for value in background):
            raise ValueError(
                f"data.background={list(background)} is not a colour; give three numbers in "
                "0..255, as [255,255,255]"
            )
        self.background = tuple(background)
        self.shortest = shortest

    def __call__(self, image: Encoded) -> Image.Image:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # on EXIF that is cut short
                opened = Image.open(io.BytesIO(image.data), formats=FORMATS)
                if self.shortest is not None:
                    part = self.shortest / min(opened.size)
                    opened.draft(None, (round(opened.width * part), round(opened.height * part)))
                rgb = to_rgb(opened, self.background)
                turn = UPRIGHT.get(orientation(opened))  # a PNG's may lie behind its pixels
        except UNREADABLE as error:
            unknown = isinstance(error, UnidentifiedImageError)
            kinds = f"it is none of {', '.join(FORMATS)}, or of a kind that Pillow does not read"
            reason = kinds if unknown else error
            raise ValueError(
                f"cannot decode the image {image.where} ({len(image.data):,} bytes): {reason}; "
                "replace or remove it"
            ) from error
        return rgb if turn is None else rgb.transpose(turn)


def orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; 1 where an image has none, or an EXIF that cannot be read.

    A TIFF is upright when Pillow has read it.
    """
    if "exif" not in image.info:
        return 1
    try:
        return image.getexif().get(ORIENTATION, 1)
    except (*UNREADABLE, struct.error, TypeError, KeyError):
        return 1


def to_rgb(image: Image.Image, background: Sequence[int] = WHITE) -> Image.Image:
    """An image of any mode as RGB.

    Raises:
        ValueError: 32-bit or signed values, whose range the file does not say.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        image.load()
        return image
    sixteen_bits = image.mode.startswith("I;16") or (
        image.mode == "I" and image.format in ("PNG", "PPM")  # as Pillow scales or reads them
    )
    if sixteen_bits:
        return grey_to_rgb(image, background)
    if image.mode in ("I", "F"):
        raise ValueError(
            "32-bit or signed values have no known range: save it with 8 or 16 bits a channel"
        )
    if image.has_transparency_data:
        canvas = Image.new("RGBA", image.size, (*background, 255))
        canvas.alpha_composite(image.convert("RGBA"))
        image = canvas
    return image.convert("RGB")


def grey_to_rgb(image: Image.Image, background: Sequence[int]) -> Image.Image:
    """A grey image of 16 bits a pixel, or a TIFF of 12, as RGB."""
    values = np.asarray(image).astype(np.int64)
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    white = 2 ** tags.get(BITSPERSAMPLE, (16,))[0] - 1
    grey = (values * 255 + white // 2) // white
    if tags.get(PHOTOMETRIC_INTERPRETATION) == WHITE_IS_ZERO:  # Pillow inverts 8 bits only
        grey = 255 - grey
    rgb = np.repeat(grey[..., None], 3, axis=-1).astype(np.uint8)
    rgb[values == image.info.get("transparency", -1)] = background
    return Image.fromarray(rgb)
