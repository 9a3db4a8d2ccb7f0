"""Times of parts as stacked bars, a panel for each model or shape, as a picture."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_COLORS = {
    "forward": "#4c78a8",
    "backward": "#9ecae9",
    "optimizer": "#b8b8b8",
}
_INCHES = 0.62  # of a bar


@dataclass(frozen=True)
class Bar:
    """ms of each part, bottom first; ms of the whole and its speed-up are written over it."""

    name: str
    parts: dict[str, float]
    total: float
    speed_up: float


@dataclass(frozen=True)
class Panel:
    title: str
    bars: list[Bar]


def figure_class() -> Any:
    """matplotlib's Figure. Raises ValueError that says what to install."""
    try:
        return importlib.import_module("matplotlib.figure").Figure
    except ImportError as error:
        raise ValueError(
            f"picture= needs matplotlib ({error}): pip install 'sparsetrain[bench]', or leave"
            " picture= out"
        ) from error


def draw_bars(path: Path, title: str, what: str, panels: Sequence[Panel]) -> None:
    """Write a PNG. what: is timed, for the axis. Raises ValueError where matplotlib is missing."""
    count = max(len(panel.bars) for panel in panels)
    width = max(6.0, len(panels) * (_INCHES * count + 0.7))
    figure = figure_class()(figsize=(width, 4.8), dpi=150, layout="constrained")
    figure.suptitle(title, fontsize=11)
    parts = dict.fromkeys(part for panel in panels for bar in panel.bars for part in bar.parts)
    names = [part for part in _COLORS if part in parts]
    handles = []
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        handles = []
        places = range(len(panel.bars))
        tops = [0.0] * len(panel.bars)
        for part in names:
            heights = [bar.parts.get(part, 0.0) for bar in panel.bars]
            color = _COLORS[part]
            handles.append(axes.bar(places, heights, 0.72, tops, color=color, label=part))
            tops = [top + height for top, height in zip(tops, heights, strict=True)]
        for place, top, bar in zip(places, tops, panel.bars, strict=True):
            digits = 0 if bar.total >= 100 else 1 if bar.total >= 10 else 2
            words = f"{bar.speed_up:.2f}×\n{bar.total:.{digits}f} ms"
            style = {"ha": "center", "va": "bottom", "fontsize": 7}
            axes.annotate(words, (place, top), (0, 2), textcoords="offset points", **style)
        axes.set(ylim=(0, 1.14 * max(tops)), xlim=(-0.6, count - 0.4))
        axes.set_title(panel.title, fontsize=10)
        style = {"rotation": 40, "ha": "right", "rotation_mode": "anchor", "fontsize": 8}
        axes.set_xticks(places, [bar.name for bar in panel.bars], **style)
        axes.tick_params(axis="y", labelsize=8)
        axes.grid(visible=True, axis="y", linewidth=0.3, alpha=0.5)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel(f"ms of {what}", fontsize=9)
    style = {"loc": "outside lower center", "ncols": len(names), "fontsize": 8, "frameon": False}
    figure.legend(handles=handles, **style)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")
