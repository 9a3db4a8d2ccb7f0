"""Random boxes, and crops of images of several sizes."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

TRIES = 10
"""Boxes that are drawn until one fits, for the crop and for erasing; timm's number."""
BOX_DRAWS = 2 * TRIES + 2


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


def crop_each(images: Sequence[Tensor], box_B4: Tensor, size: int, bicubic_B: Tensor) -> Tensor:
    """Cut a box out of each image, uint8 [3, h, w], and resize it with antialiasing.

    box_B4, bicubic_B: on the CPU, as of `batch_ops.crop_resize`. Returns uint8
    [B, 3, size, size], as Pillow resizes up to one value in rounding.
    """
    boxes, bicubic = box_B4.int().tolist(), bicubic_B.tolist()
    crops = [
        F.interpolate(
            image[None, :, top : top + height, left : left + width].float(),
            (size, size),
            mode="bicubic" if cubic else "bilinear",
            antialias=True,
        )
        for image, (top, left, height, width), cubic in zip(images, boxes, bicubic, strict=True)
    ]
    return torch.cat(crops).add_(0.5).clamp_(0, 255).to(torch.uint8)
