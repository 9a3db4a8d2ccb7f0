"""Pictures of a run for W&B: maps of layers by steps, masks before and after."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sparsetrain.lightning.report.data import MaskPair
from sparsetrain.lightning.report.masks import DROPPED, KEPT, NEW, STAYED, change_codes

_VIRIDIS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
_WIDTH, _ROW, _MARGIN = 800, 16, 6  # pixels
_PAPER, _INK = (255, 255, 255), (40, 46, 56)


def map_picture(rows: Sequence[str], steps: Sequence[float], values: np.ndarray) -> Image.Image:
    """Layers down, steps across, a colour for each value, with names and the range of the values.

    values: [rows, steps]; NaN is left white.
    """
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    font = ImageFont.load_default(11)
    gutter = 2 * _MARGIN + round(max(font.getlength(name) for name in rows))
    height = _ROW * len(rows)
    picture = Image.new("RGB", (gutter + _WIDTH + _MARGIN, height + 2 * _ROW + _MARGIN), _PAPER)
    field = Image.fromarray(_coloured(values, low, high))
    picture.paste(field.resize((_WIDTH, height), Image.Resampling.NEAREST), (gutter, _MARGIN))
    draw = ImageDraw.Draw(picture)
    for i, name in enumerate(rows):
        draw.text((_MARGIN, _MARGIN + i * _ROW + 1), name, _INK, font)
    below = _MARGIN + height + 3
    draw.text((gutter, below), f"step {steps[0]:g}", _INK, font)
    draw.text((gutter + _WIDTH, below), f"{steps[-1]:g}", _INK, font, anchor="ra")
    draw.text((gutter + _WIDTH / 2, below), f"{low:.4g} to {high:.4g}", _INK, font, anchor="ma")
    return picture


def mask_picture(pair: MaskPair) -> Image.Image:
    """The mask before, after, and what changed, side by side."""
    codes = (pair.before.astype(int), pair.after.astype(int), change_codes(pair.before, pair.after))
    palettes = ((_PAPER, KEPT), (_PAPER, KEPT), (_PAPER, STAYED, NEW, DROPPED))
    rows, columns = pair.before.shape
    zoom = max(1, 256 // max(rows, columns))
    size = (columns * zoom, rows * zoom)
    picture = Image.new("RGB", (3 * size[0] + 2 * _ROW, size[1]), _PAPER)
    for i, (code, palette) in enumerate(zip(codes, palettes, strict=True)):
        pixels = np.array(palette, np.uint8)[code]
        part = Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST)
        picture.paste(part, (i * (size[0] + _ROW), 0))
    return picture


def _coloured(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """uint8 [rows, steps, 3]."""
    known = np.isfinite(values)
    share = (np.where(known, values, low) - low) / (high - low or 1.0)
    stops = np.linspace(0.0, 1.0, len(_VIRIDIS))
    channels = [np.interp(share, stops, channel) for channel in np.array(_VIRIDIS).T]
    colours = np.stack(channels, axis=-1).round().astype(np.uint8)
    colours[~known] = _PAPER
    return colours
