"""Image operations on batches, each sample with parameters of its own, as Pillow computes them.

Images are float32 [B, 3, H, W] that hold whole numbers from 0 to 255. Nothing here is random, and
nothing waits for the device.

Dimension key:  B samples   C channels   H, W pixels   V the 256 values
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def affine(x_BCHW: Tensor, matrix_B6: Tensor, fill_C: Tensor, mode: str) -> Tensor:
    """Read each output pixel (x, y) at (a x + b y + c, d x + e y + f); `fill` outside the image.

    Coordinates are of pixel centres, so the first pixel is (0.5, 0.5). mode: "bilinear" or
    "bicubic" (PyTorch's kernel, a = -3/4; Pillow's has -1 here).
    """
    B, _, H, W = x_BCHW.shape
    y, x = torch.meshgrid(
        torch.arange(H, device=x_BCHW.device) + 0.5,
        torch.arange(W, device=x_BCHW.device) + 0.5,
        indexing="ij",
    )
    a, b, c, d, e, f = (value.view(B, 1, 1) for value in matrix_B6.unbind(1))
    from_x, from_y = a * x + b * y + c, d * x + e * y + f
    grid = torch.stack((2 * from_x / W - 1, 2 * from_y / H - 1), dim=-1)
    out = whole(F.grid_sample(x_BCHW, grid, mode, padding_mode="border", align_corners=False))
    inside = (from_x >= 0) & (from_x < W) & (from_y >= 0) & (from_y < H)
    return torch.where(inside[:, None], out, fill_C.view(1, -1, 1, 1))


def gray(x_BCHW: Tensor) -> Tensor:
    """Luma of ITU-R 601, whole numbers [B, 1, H, W], with Pillow's rounding."""
    red, green, blue = (x_BCHW[:, c : c + 1].int() for c in range(3))
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).to(x_BCHW.dtype)


def blend(from_: Tensor, to_BCHW: Tensor, factor_B: Tensor) -> Tensor:
    """from + factor (to - from), cut to 0..255 and rounded down as Pillow's enhancers do."""
    mixed = from_ + _each(factor_B) * (to_BCHW - from_)
    return mixed.add_(1e-4).clamp_(0, 255).floor_()  # 1e-4: float32 may fall below a whole number


def smooth(x_BCHW: Tensor) -> Tensor:
    """Pillow's SMOOTH filter; the outermost pixels stay as they are."""
    out = x_BCHW.clone()
    if min(x_BCHW.shape[2:]) > 2:
        # No conv2d: on CUDA a call took the host 17 ms, likely to plan for another batch size.
        three = x_BCHW[:, :, :-2] + x_BCHW[:, :, 1:-1] + x_BCHW[:, :, 2:]
        nine = three[..., :-2] + three[..., 1:-1] + three[..., 2:]
        inner = nine.add_(x_BCHW[:, :, 1:-1, 1:-1], alpha=4)
        out[:, :, 1:-1, 1:-1] = whole(inner.div_(13))
    return out


def histogram(x_BCHW: Tensor) -> Tensor:
    """How often each value occurs: int64 [B, C, 256]."""
    values = x_BCHW.flatten(2).long()
    counts = torch.zeros(*values.shape[:2], 256, dtype=torch.int64, device=x_BCHW.device)
    return counts.scatter_add_(2, values, torch.ones_like(values))


def look_up(x_BCHW: Tensor, table_BCV: Tensor) -> Tensor:
    """Replace each value by that of its channel's table."""
    values = x_BCHW.flatten(2).long()
    return table_BCV.gather(2, values).view_as(x_BCHW).to(x_BCHW.dtype)


def autocontrast_table(counts_BCV: Tensor) -> Tensor:
    """Stretch each channel to 0..255, float32 [B, C, 256]."""
    there = counts_BCV > 0
    low = there.int().argmax(2, keepdim=True)
    high = 255 - there.flip(2).int().argmax(2, keepdim=True)
    value = torch.arange(256, device=counts_BCV.device)
    stretched = (255 * (value - low)).div((high - low).clamp(min=1), rounding_mode="floor")
    return torch.where(high > low, stretched.clamp(0, 255), value).float()


def equalize_table(counts_BCV: Tensor) -> Tensor:
    """Spread each channel's values evenly, float32 [B, C, 256]."""
    last = 255 - (counts_BCV > 0).flip(2).int().argmax(2, keepdim=True)
    total = counts_BCV.sum(2, keepdim=True)
    step = (total - counts_BCV.gather(2, last)).div(255, rounding_mode="floor")
    before = counts_BCV.cumsum(2) - counts_BCV
    half = step.div(2, rounding_mode="floor")
    spread = (half + before).div(step.clamp(min=1), rounding_mode="floor")
    value = torch.arange(256, device=counts_BCV.device)
    return torch.where(step > 0, spread.clamp(0, 255), value).float()


def whole(x: Tensor) -> Tensor:
    return x.add_(0.5).floor_().clamp_(0, 255)


def _each(value_B: Tensor) -> Tensor:
    return value_B.view(-1, 1, 1, 1)
