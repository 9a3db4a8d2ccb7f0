"""Random boxes, and crops that are resized as Pillow resizes them, for whole batches.

Dimension key:  B samples   C channels   H, W pixels   S, T pixels of an edge of the result
                N edges of boxes, heights before widths   K taps of a filter
"""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._utils import _flatten_dense_tensors

from sparsetrain.lightning.data.batch_ops import whole
from sparsetrain.lightning.data.draws import upload

TRIES = 10
"""Boxes that are drawn until one fits, for the crop and for erasing; timm's number."""
BOX_DRAWS = 2 * TRIES + 2
PART_BYTES = 2**28
"""Images, and their boxes in float32, that are cropped at once; temporaries are three times that at
most."""


def draw_boxes(
    draws: Tensor,
    size_B2: Tensor,
    area: tuple[float, float],
    aspect: float,
    whole: bool = False,
) -> Tensor:
    """Boxes (top, left, height, width) of random area and aspect ratio, float32 [B, 4].

    draws: [B, BOX_DRAWS or more]: areas, ratios, then top and left. The first of the tries that
    fits counts. size_B2: height and width of each image. area: range, as a part of the image's.
    aspect: the smallest ratio; the largest is its inverse. whole: a box as large as the image fits,
    and where none fits, the largest centred one with an allowed ratio is taken; otherwise it does
    not, and the box is empty.
    """
    H, W = (edge.float() for edge in size_B2.unbind(1))
    areas, ratios = draws[:, :TRIES], draws[:, TRIES : 2 * TRIES]
    area_BT = (area[0] + (area[1] - area[0]) * areas) * (H * W)[:, None]
    ratio_BT = torch.exp(math.log(aspect) * (1 - 2 * ratios))
    width, height = torch.sqrt(area_BT * ratio_BT).round(), torch.sqrt(area_BT / ratio_BT).round()
    wide, high = W[:, None], H[:, None]
    fits = (width <= wide) & (height <= high) if whole else (width < wide) & (height < high)
    first = fits.int().argmax(1, keepdim=True)
    width, height = width.gather(1, first)[:, 0], height.gather(1, first)[:, 0]
    top = (draws[:, 2 * TRIES] * (H - height + 1)).floor()
    left = (draws[:, 2 * TRIES + 1] * (W - width + 1)).floor()
    box = torch.stack((top, left, height, width), dim=1)
    other = torch.zeros_like(box)
    if whole:
        h, w = torch.minimum(H, (W / aspect).round()), torch.minimum(W, (H / aspect).round())
        other = torch.stack((((H - h) / 2).floor(), ((W - w) / 2).floor(), h, w), dim=1)
    return torch.where(fits.any(1, keepdim=True), box, other)


def crop_resize(
    x_BCHW: Tensor, box_B4: Tensor, flip_B: Tensor, size: int, bicubic_B: Tensor
) -> Tensor:
    """Cut out a box, resize it to [size, size] with antialiasing, and mirror it where asked.

    x_BCHW: float32 whole numbers from 0 to 255, on any device. The others are on the CPU. box_B4:
    int64, top, left, height and width in pixels. bicubic_B: bicubic (True) or bilinear (False).
    Returns float32 whole numbers [B, C, size, size].

    Two products with a matrix for each sample, rounded after each as Pillow does. Their sums are
    exact, so a sample's result does not depend on the batch.
    """
    device = x_BCHW.device
    down, along = _filters(box_B4, flip_B, size, bicubic_B, device)
    top, left = upload(box_B4[:, :2], device).view(-1, 2, 1, 1).unbind(1)
    down_BTH = _matrix(down.pixel + top, down.weight, x_BCHW.shape[2])
    along_BSW = _matrix(along.pixel + left, along.weight, x_BCHW.shape[3])
    return _resize(x_BCHW, down_BTH, along_BSW)


def crop_each(
    images: Sequence[Tensor], box_B4: Tensor, flip_B: Tensor, size: int, bicubic_B: Tensor
) -> Tensor:
    """`crop_resize` for images of several sizes, uint8 [3, h, w] each, on one device.

    Returns uint8 [B, 3, size, size]. The number of operations grows with the bytes of the images,
    not with their number.
    """
    device = images[0].device
    order = box_B4[:, 2:].prod(1).argsort(descending=True)  # boxes of a part are about as large
    images, box_B4 = [images[number] for number in order.tolist()], box_B4[order]
    down, along = _filters(box_B4, flip_B[order], size, bicubic_B[order], device)
    row_BH3 = _rows(images, box_B4, device)
    crops = []
    for part, before, H, W in _parts(images, box_B4, size):
        # One call for all images: each call competes with the training thread for Python's lock.
        flat = _flatten_dense_tensors([*images[part], images[0].new_zeros(W)])
        x_BH3W = flat.unfold(0, W, 1)[row_BH3[part, :H] - before].float()
        down_BTH = _matrix(down.pixel[part], down.weight[part], H)
        along_BSW = _matrix(along.pixel[part], along.weight[part], W)
        crops.append(_resize(x_BH3W.transpose(1, 2), down_BTH, along_BSW).to(torch.uint8))
    return torch.cat(crops)[upload(order.argsort(), device)]


def crop_padded(x_BCHW: Tensor, draws_B2: Tensor, padding: int) -> Tensor:
    """A random crop of each image's own size from the image with `padding` zeros around it.

    draws_B2: numbers in [0, 1) on the CPU, of top and left; all 2 · padding + 1 are as likely.
    """
    B, C, H, W = x_BCHW.shape
    top_B, left_B = upload((draws_B2 * (2 * padding + 1)).long(), x_BCHW.device).unbind(1)
    at = partial(torch.arange, device=x_BCHW.device)
    rows = (top_B[:, None] + at(H))[:, None, :, None]
    columns = (left_B[:, None] + at(W))[:, None, None, :]
    padded = F.pad(x_BCHW, (padding,) * 4)
    return padded[at(B)[:, None, None, None], at(C)[:, None, None], rows, columns]


def _parts(
    images: Sequence[Tensor], box_B4: Tensor, size: int
) -> Iterator[tuple[slice, int, int, int]]:
    """What is cropped at once: (images, values before them, height, width that hold each box)."""
    first = before = values = H = W = 0
    for number, (height, width) in enumerate(box_B4[:, 2:].tolist()):
        height, width, more = _up(height), _up(width), images[number].numel()
        high, wide = max(H, height), max(W, width)
        boxes = (number + 1 - first) * 3 * max(high, size) * max(wide, size)
        if number > first and values + more + 4 * boxes > PART_BYTES:
            yield slice(first, number), before, H, W
            first, before, values = number, before + values, 0
            high, wide = height, width
        values, H, W = values + more, high, wide
    yield slice(first, len(images)), before, H, W


def _rows(images: Sequence[Tensor], box_B4: Tensor, device: torch.device) -> Tensor:
    """Where the rows of each box begin if all images lie one after the other, int64 [B, H, 3].

    H: at least the largest box's height. Smaller boxes go on below, and stay in their image.
    """
    size_B2 = torch.tensor([image.shape[-2:] for image in images])
    plane_B = size_B2.prod(1)
    before_B = 3 * (plane_B.cumsum(0) - plane_B)
    numbers = torch.stack((before_B, plane_B, *size_B2.unbind(1), *box_B4[:, :2].unbind(1)))
    before, plane, height, width, top, left = upload(numbers, device).view(6, -1, 1, 1)
    row_H1 = torch.arange(_up(int(box_B4[:, 2].max())), device=device)[:, None]
    row_BH1 = torch.minimum(top + row_H1, height - 1)
    return before + plane * torch.arange(3, device=device) + row_BH1 * width + left


class _Filter(NamedTuple):
    """Which pixels of its box each pixel of an edge of the result is made of, [B, size, K]."""

    pixel: Tensor  # int64
    weight: Tensor  # float32


def _filters(
    box_B4: Tensor, flip_B: Tensor, size: int, bicubic_B: Tensor, device: torch.device
) -> tuple[_Filter, _Filter]:
    """Pillow's filters for rows, and for columns.

    Weights are multiples of 2^-13 with at most 11 significant bits, as many as TF32 keeps. So a sum
    of them times whole numbers up to 255 is exact in float32, in any order. They add up to 1, but
    for the 11 bits. Pixels outside the box have weight 0.
    """
    length_N = box_B4[:, 2:].T.flatten()
    taps = math.ceil(4 * max(int(length_N.max()) / size, 1)) + 1
    flip_N = torch.cat((torch.zeros_like(flip_B), flip_B))
    # Divided here: CUDA multiplies by the inverse of a number, and the last bit may differ.
    numbers = torch.stack((length_N, length_N / size, flip_N, bicubic_B.repeat(2)))
    length, scale, flip, bicubic = upload(numbers, device).view(4, -1, 1, 1)
    step_S1 = torch.arange(size, device=device, dtype=torch.float32)[:, None]
    center_NS1 = (torch.where(flip > 0, size - 1 - step_S1, step_S1) + 0.5) * scale
    first_NS1 = (center_NS1 - taps / 2).floor().clamp(min=0)
    pixel_NSK = first_NS1 + torch.arange(taps, device=device)
    d = (pixel_NSK + 0.5 - center_NS1).abs() / scale.clamp(min=1)  # shrinking widens the filter
    linear = (1 - d).clamp(min=0)
    # Keys' kernel with a = -1/2
    near, far = (1.5 * d - 2.5) * d * d + 1, ((-0.5 * d + 2.5) * d - 4) * d + 2
    cubic = torch.where(d < 1, near, far) * (d < 2)
    weight = torch.where(bicubic > 0, cubic, linear) * (pixel_NSK < length)
    # Sums of whole numbers, below 2^24, depend on no order, nor on taps of weight 0 that follow.
    upto = (weight * 2**14).round_().cumsum(-1)
    # Sums are rounded, and not weights: the last one stays 1.
    upto = (upto / upto[..., -1:] * 2**13).round_() / 2**13
    weight = upto.diff(dim=-1, prepend=torch.zeros_like(upto[..., :1])).half().float()
    down, along = map(_Filter, pixel_NSK.long().chunk(2), weight.chunk(2))
    return down, along


def _matrix(pixel_BSK: Tensor, weight_BSK: Tensor, pixels: int) -> Tensor:
    """The weights of all pixels of an edge, [B, S, pixels]."""
    B, S, K = pixel_BSK.shape
    matrix = weight_BSK.new_zeros(B, S, _up(pixels + K))  # filters reach over the edge
    return matrix.scatter_(2, pixel_BSK, weight_BSK)[..., :pixels]


def _resize(x_BCHW: Tensor, down_BTH: Tensor, along_BSW: Tensor) -> Tensor:
    """Nothing is copied where rows lie before channels in memory."""
    x = whole(torch.einsum("bchw,bsw->bhcs", x_BCHW, along_BSW))
    return whole(torch.einsum("bhcs,bth->bcts", x, down_BTH))


def _up(pixels: int) -> int:
    """A multiple of 8, for which products have faster kernels."""
    return -(-pixels // 8) * 8
