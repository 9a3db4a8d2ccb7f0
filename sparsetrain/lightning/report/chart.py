"""Line charts as inline SVG.

Text keeps its size at every page width: the frame, ticks and labels are placed in percent across
and pixels down, and only the lines live in an inner box that stretches (with strokes that do not).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby, pairwise
from statistics import median_low

from sparsetrain.lightning.report.axis import (
    Axis,
    drawable,
    number,
    rounded_axis,
    tick_labels,
    tight_axis,
)
from sparsetrain.lightning.report.data import Curve, Series, Span

Point = tuple[float, float]

WIDTH = 1000.0  # of the stretched box, in its own units
HEIGHT = 200.0  # pixels
LABEL_GAP = 13.0  # pixels between two value labels
FEW = 6  # series with a colour and a legend entry each; more are shown as one family
PHASES = 3  # shades for spans


@dataclass(frozen=True)
class Line:
    """A series ready to draw: unbroken runs of points in box units, and its last drawable value."""

    name: str
    colour: str
    runs: tuple[tuple[Point, ...], ...]
    last: float | None


def chart(curve: Curve) -> str:
    """HTML for one chart: title, unit, plot, legend; "no data" where nothing can be drawn."""
    heading = escape(curve.title)
    if curve.unit:
        heading += f' <span class="unit">{escape(curve.unit)}</span>'
    drawn = [s for s in curve.series if any(map(drawable, s.values))]
    if not drawn:
        frame = f'<rect class="frame" width="100%" height="{HEIGHT:g}"/>'
        nothing = f'<text class="none" x="50%" y="{HEIGHT / 2:g}">no data</text>'
        return _figure(curve, heading, frame + nothing, "")
    x, y = _axes(drawn)
    lines = [_line(s, x, y, _colour(i, len(curve.series))) for i, s in enumerate(curve.series)]
    plot = "".join(
        (
            _spans(curve.spans, x),
            _grid(x, y),
            _strokes(lines, thin=len(lines) > FEW),
            _dots(lines, ends=len(lines) <= FEW),
            _value_labels(lines, y),
        )
    )
    return _figure(curve, heading, plot, _legend(lines, curve.spans, x))


def break_at_gaps(points: Iterable[Point]) -> list[list[Point]]:
    """Cut (step, value) points into runs wherever a value cannot be drawn."""
    grouped = groupby(points, key=lambda point: drawable(point[1]))
    return [list(run) for can_draw, run in grouped if can_draw]


def thin_out(points: Sequence[Point], bucket: float = 2.0) -> list[Point]:
    """Drop points that would not be seen: of each `bucket` units of x keep first, min, max, last.

    So a spike of a single step stays visible in a run of a million.
    """
    kept: list[Point] = []
    for _, group in groupby(points, key=lambda point: point[0] // bucket):
        column = list(group)
        ys = [y for _, y in column]
        places = {0, ys.index(min(ys)), ys.index(max(ys)), len(ys) - 1}
        kept.extend(column[i] for i in sorted(places))
    return kept


def spread_labels(heights: Sequence[float], gap: float, bottom: float) -> list[float]:
    """Move labels apart to at least `gap`, within [0, bottom] if they fit; the order is kept."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    placed = list(heights)
    for above, below in pairwise(order):
        placed[below] = max(placed[below], placed[above] + gap)
    limit = bottom
    for i in reversed(order):
        placed[i] = min(placed[i], limit)
        limit = placed[i] - gap
    return placed


def _axes(series: Sequence[Series]) -> tuple[Axis, Axis]:
    steps = [step for s in series for step in s.steps]
    values = [value for s in series for value in s.values if drawable(value)]
    if 0 < min(steps) < max(steps) / 20:
        steps.append(0.0)  # the first value is logged a few steps in; the run began at 0
    return tight_axis(steps, most_ticks=5), rounded_axis(values, most_ticks=5)


def _line(series: Series, x: Axis, y: Axis, colour: str) -> Line:
    runs = []
    for run in break_at_gaps(zip(series.steps, series.values, strict=True)):
        placed = [(WIDTH * x.fraction(s), HEIGHT * (1 - y.fraction(v))) for s, v in run]
        runs.append(tuple(thin_out(placed)))
    last = next((v for v in reversed(series.values) if drawable(v)), None)
    return Line(series.name, colour, tuple(runs), last)


def _colour(index: int, count: int) -> str:
    """A named colour for a few series; for a family, from violet (first) to green (last)."""
    if count <= FEW:
        return f"var(--line{index})"
    part = index / (count - 1)
    return f"hsl({275 - 130 * part:.0f} {55 + 5 * part:.0f}% {62 - 20 * part:.0f}%)"


def _spans(spans: Sequence[Span], x: Axis) -> str:
    parts = []
    for span, shade in zip(spans, _shades(spans), strict=True):
        left, right = (min(max(x.fraction(end), 0.0), 1.0) for end in (span.start, span.stop))
        if right > left:
            parts.append(
                f'<rect class="phase{shade}" x="{left:.3%}" width="{right - left:.3%}" '
                f'height="{HEIGHT:g}"><title>{escape(span.label)}</title></rect>'
            )
    return "".join(parts)


def _shades(spans: Sequence[Span]) -> list[int]:
    """The same label has the same shade; neighbours with different labels differ."""
    labels = list(dict.fromkeys(span.label for span in spans))
    return [labels.index(span.label) % PHASES for span in spans]


def _grid(x: Axis, y: Axis) -> str:
    parts = []
    for tick, label in zip(x.ticks, tick_labels(x.ticks), strict=True):
        at = f"{x.fraction(tick):.3%}"
        parts.append(f'<line class="grid" x1="{at}" x2="{at}" y2="{HEIGHT:g}"/>')
        parts.append(f'<text class="tick x" x="{at}" y="{HEIGHT + 16:g}">{label}</text>')
    for tick, label in zip(y.ticks, tick_labels(y.ticks), strict=True):
        at = f"{HEIGHT * (1 - y.fraction(tick)):.1f}"
        parts.append(f'<line class="grid" x2="100%" y1="{at}" y2="{at}"/>')
        parts.append(f'<text class="tick y" x="-7" y="{at}">{label}</text>')
    parts.append(f'<line class="axis" x2="100%" y1="{HEIGHT:g}" y2="{HEIGHT:g}"/>')
    parts.append(f'<text class="tick x" x="50%" y="{HEIGHT + 32:g}">step</text>')
    return "".join(parts)


def _strokes(lines: Sequence[Line], *, thin: bool) -> str:
    paths = []
    for line in lines:
        d = "".join(
            "M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in run)
            for run in line.runs
            if len(run) > 1
        )
        if d:
            name = f"<title>{escape(line.name)}</title>"
            paths.append(f'<path style="stroke:{line.colour}" d="{d}">{name}</path>')
    return (
        f'<svg class="lines{" thin" if thin else ""}" width="100%" height="{HEIGHT:g}" '
        f'viewBox="0 0 {WIDTH:g} {HEIGHT:g}" preserveAspectRatio="none">{"".join(paths)}</svg>'
    )


def _dots(lines: Sequence[Line], *, ends: bool) -> str:
    """A dot for every run of one point, which has no line, and with `ends` at each last point."""
    dots = []
    for line in lines:
        points = {run[0] for run in line.runs if len(run) == 1}
        if ends and line.runs:
            points.add(line.runs[-1][-1])
        dots.extend(
            f'<circle style="fill:{line.colour}" cx="{px / WIDTH:.3%}" cy="{py:.1f}" r="3"/>'
            for px, py in sorted(points)
        )
    return "".join(dots)


def _value_labels(lines: Sequence[Line], y: Axis) -> str:
    """The last value of each line right of the plot; of a family the min, median and max."""
    ends = [(line.last, line.colour) for line in lines if line.last is not None]
    values = [value for value, _ in ends]
    if len(lines) <= FEW:
        labels = [(value, number(value), colour) for value, colour in ends]
    else:
        named = (("max", max(values)), ("med", median_low(values)), ("min", min(values)))
        labels = [
            (value, f"{name} {number(value, digits=3)}", "var(--soft)") for name, value in named
        ]
    heights = [HEIGHT * (1 - y.fraction(value)) for value, _, _ in labels]
    return "".join(
        f'<text class="value" style="fill:{colour}" x="100%" y="{at:.1f}" dx="8">{text}</text>'
        for at, (_, text, colour) in zip(
            spread_labels(heights, LABEL_GAP, HEIGHT), labels, strict=True
        )
    )


def _legend(lines: Sequence[Line], spans: Sequence[Span], x: Axis) -> str:
    if len(lines) <= FEW:
        keys = [
            f'<span class="key"><i class="dash" style="background:{line.colour}"></i>'
            f"{escape(line.name)}{'' if line.runs else ' (no data)'}</span>"
            for line in lines
        ]
    else:
        ends = sorted((line.last, line.name) for line in lines if line.last is not None)
        ramp = ",".join(_colour(i, FEW + 1) for i in range(FEW + 1))
        keys = [
            f'<span class="key">{escape(lines[0].name)}<i class="ramp" '
            f'style="background:linear-gradient(90deg,{ramp})"></i>{escape(lines[-1].name)}</span>',
            f'<span class="key">{len(lines)} series, lowest {escape(ends[0][1])}, '
            f"highest {escape(ends[-1][1])}</span>",
        ]
    shown = [span for span in spans if span.start < x.high and span.stop > x.low]
    shades = dict(zip((s.label for s in spans), _shades(spans), strict=True))
    keys += [
        f'<span class="key"><i class="box phase{shades[label]}"></i>{escape(label)}</span>'
        for label in dict.fromkeys(span.label for span in shown)
    ]
    return f'<p class="legend">{"".join(keys)}</p>'


def _figure(curve: Curve, heading: str, plot: str, legend: str) -> str:
    return (
        f'<figure class="chart"><figcaption>{heading}</figcaption><div class="plot">'
        f'<svg role="img" aria-label="{escape(curve.title)}" width="100%" height="{HEIGHT:g}">'
        f"{plot}</svg></div>{legend}</figure>"
    )
