"""Mask pictures: one pixel per weight or block, as PNG inside the page.

Dimension key:  R rows   C columns
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

from sparsetrain.lightning.report.data import MASK_SIDE, MaskPair

Colour = tuple[int, int, int]

# Pruned weights are transparent, so that the pictures sit on a light and on a dark page. Blue and
# orange stay apart for the common forms of colour blindness.
KEPT: Colour = (70, 126, 206)
STAYED: Colour = (168, 175, 186)
NEW: Colour = (38, 124, 222)
DROPPED: Colour = (236, 126, 34)


def change_codes(before_RC: np.ndarray, after_RC: np.ndarray) -> np.ndarray:
    """Return [R, C] uint8: 0 pruned in both, 1 kept in both, 2 new, 3 dropped."""
    codes = np.zeros(before_RC.shape, np.uint8)
    codes[before_RC & after_RC] = 1
    codes[~before_RC & after_RC] = 2
    codes[before_RC & ~after_RC] = 3
    return codes


def codes_png(codes_RC: np.ndarray, colours: Sequence[Colour]) -> bytes:
    """A PNG of C × R pixels: code 0 is transparent, code i has `colours[i - 1]`."""
    rows, columns = codes_RC.shape
    image = Image.frombytes("P", (columns, rows), codes_RC.astype(np.uint8).tobytes())
    image.putpalette([0, 0, 0, *(channel for colour in colours for channel in colour)])
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", transparency=0)
    return buffer.getvalue()


def mask_figures(pair: MaskPair) -> str:
    """HTML: the mask before, after, and what changed, side by side with a legend."""
    codes_RC = change_codes(pair.before, pair.after)
    rows, columns = codes_RC.shape
    stayed, new, dropped = (int((codes_RC == code).sum()) for code in (1, 2, 3))
    changed = (new + dropped) / codes_RC.size
    pictures = (
        ("before", f"{_density(pair.before)} kept", pair.before, (KEPT,)),
        ("after", f"{_density(pair.after)} kept", pair.after, (KEPT,)),
        ("change", f"{changed:.1%} flipped", codes_RC, (STAYED, NEW, DROPPED)),
    )
    keys = (("kept in both", STAYED, stayed), ("new", NEW, new), ("dropped", DROPPED, dropped))
    return (
        f'<section class="masks"><h3>{escape(pair.name)} '
        f'<span class="unit">{rows} × {columns} {escape(pair.of)}</span></h3>'
        + '<div class="pictures">'
        + "".join(_picture(pair.name, *picture) for picture in pictures)
        + '<p class="legend">'
        + "".join(
            f'<span class="key"><i class="box" style="background:rgb{colour}"></i>'
            f"{label} ({count})</span>"
            for label, colour, count in keys
        )
        + '<span class="key"><i class="box"></i>pruned in both</span></p></div></section>'
    )


def _density(mask_RC: np.ndarray) -> str:
    return f"{mask_RC.mean():.1%}"


def _picture(
    name: str, when: str, caption: str, codes_RC: np.ndarray, colours: Sequence[Colour]
) -> str:
    rows, columns = codes_RC.shape
    # A multiple of three, so that a narrow page can show two thirds of it in whole pixels.
    zoom = 3 * (MASK_SIDE // max(rows, columns))
    data = base64.b64encode(codes_png(codes_RC, colours)).decode("ascii")
    return (
        f'<figure style="--w:{columns * zoom}px;--h:{rows * zoom}px">'
        f'<img alt="{escape(name)} {when}: {caption}" src="data:image/png;base64,{data}">'
        f"<figcaption><b>{when}</b> {caption}</figcaption></figure>"
    )
