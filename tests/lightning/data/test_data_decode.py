"""Images of every mode come out as a viewer shows them."""

import struct
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from data_helpers import encoded
from PIL import Image

from sparsetrain.lightning.data.decode import ORIENTATION, UPRIGHT, Decode, Encoded


def saved(image: Image.Image, kind: str = "PNG", **options) -> Encoded:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return Encoded(buffer.getvalue(), "in a.jpg")


def pixel(image: Encoded, decode: Decode | None = None):
    return (decode or Decode())(image).getpixel((0, 0))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_truncated_images_are_not_decoded(kind):
    data = encoded(0, kind)
    with pytest.raises(ValueError, match=r"cannot decode the image in a\.jpg .*replace or remove"):
        Decode()(Encoded(data[: len(data) // 2], "in a.jpg"))


def test_something_that_is_no_image_is_not_decoded():
    with pytest.raises(ValueError, match=r"in a\.jpg \(0 bytes\): it is none of JPEG, PNG"):
        Decode()(Encoded(b"", "in a.jpg"))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK"])
def test_every_mode_becomes_rgb(mode):
    kind = "JPEG" if mode == "CMYK" else "PNG"
    decoded = Decode()(saved(Image.new("RGB", (8, 8), (255, 255, 255)).convert(mode), kind))
    assert decoded.mode == "RGB"
    assert decoded.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_to_eight(kind):
    values = np.array([[0, 257 * 100, 257 * 200, 65535]], dtype=np.uint16)
    gray = np.asarray(Decode()(saved(Image.fromarray(values), kind)))[0, :, 0]
    assert gray.tolist() == [0, 100, 200, 255]


def test_a_transparent_grey_of_sixteen_bits_lies_over_the_background():
    values = Image.fromarray(np.array([[257 * 100, 257 * 200]], dtype=np.uint16))
    decoded = Decode((1, 2, 3))(saved(values, "PNG", transparency=257 * 100))
    assert np.asarray(decoded)[0].tolist() == [[1, 2, 3], [200, 200, 200]]


@pytest.mark.parametrize(
    ("bits", "photometric", "grey"), [(12, 1, [0, 128, 255, 64]), (16, 0, [255, 127, 0, 191])]
)
def test_a_tiff_says_how_many_bits_and_whether_zero_is_white(bits, photometric, grey):
    pixels = {
        12: bytes.fromhex("000800fff404"),  # 0, 0x800, 0xfff, 0x404
        16: np.array([0, 0x8000, 0xFFFF, 0x4040], "<u2").tobytes(),
    }[bits]
    decoded = Decode()(Encoded(gray_tiff(pixels, 4, bits, photometric), "in a.tif"))
    assert np.asarray(decoded)[0, :, 0].tolist() == grey


def gray_tiff(pixels: bytes, width: int, bits: int, photometric: int) -> bytes:
    """One row, uncompressed, little endian."""
    tags = [(256, width), (257, 1), (258, bits), (259, 1), (262, photometric)]
    tags += [(273, 8), (277, 1), (278, 1), (279, len(pixels))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + directory


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_values_without_a_known_range_are_refused(kind):
    image = saved(Image.fromarray(np.full((4, 4), 7, kind)), "TIFF")
    with pytest.raises(
        ValueError, match="32-bit or signed values have no known range: save it with 8 or"
    ):
        Decode()(image)


def test_transparent_pixels_lie_over_the_background():
    hidden = saved(Image.new("RGBA", (4, 4), (200, 0, 0, 0)))
    half = saved(Image.new("RGBA", (4, 4), (200, 0, 0, 128)))
    assert pixel(hidden) == (255, 255, 255)
    assert pixel(hidden, Decode((0, 10, 20))) == (0, 10, 20)
    assert pixel(half, Decode((0, 0, 0))) == (100, 0, 0)
    assert pixel(saved(Image.new("LA", (4, 4), (7, 255)))) == (7, 7, 7)


@pytest.mark.parametrize("mode", ["P", "RGB", "L"])
def test_a_transparent_colour_lies_over_the_background(mode):
    image = Image.new("RGB", (4, 4), (9, 9, 9)).convert(mode)
    key: Any = image.getpixel((0, 0))
    assert pixel(saved(image, transparency=key), Decode((1, 2, 3))) == (1, 2, 3)


def test_a_background_that_is_no_colour_is_refused():
    with pytest.raises(ValueError, match=r"data\.background=\[0, 300, 0\] is not a colour"):
        Decode((0, 300, 0))


def test_a_large_jpeg_is_decoded_smaller_where_its_shorter_edge_stays_long_enough():
    rough = Image.fromarray(np.random.RandomState(0).randint(0, 256, (5, 8, 3)).astype(np.uint8))
    image = saved(rough.resize((320, 200), Image.Resampling.BICUBIC), "JPEG", quality=95)
    small = Decode(shortest=100)(image)
    assert small.size == (160, 100)
    assert Decode(shortest=101)(image).size == (320, 200)
    assert Decode(shortest=40)(image).size == (80, 50)
    whole = Decode()(image).resize(small.size, Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(small).astype(int) - np.asarray(whole)).max() <= 3
    assert Decode(shortest=50)(saved(small)).size == (160, 100), "a PNG has no smaller form"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_an_image_is_turned_as_its_exif_says(kind, orientation):
    upright = Image.fromarray(np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 14)
    # 6 and 8 undo each other, the others themselves.
    back = 14 - orientation if orientation in (6, 8) else orientation
    stored = upright.transpose(UPRIGHT[back]) if orientation > 1 else upright
    exif: Any = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    decoded = Decode()(saved(stored, kind, exif=exif, **options))
    assert np.array_equal(np.asarray(decoded), np.asarray(upright))


@pytest.mark.parametrize("exif", [b"MM\0*", b"nothing", b"II*\0\x08\0\0\0\x05\0"])
def test_an_exif_that_cannot_be_read_turns_nothing(exif):
    image = saved(Image.new("RGB", (6, 4), (9, 9, 9)), "JPEG", exif=b"Exif\0\0" + exif)
    assert Decode()(image).size == (6, 4)
