"""The report page: one HTML file that needs no network and no script."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from sparsetrain.lightning.report.chart import chart
from sparsetrain.lightning.report.data import LayerRow, RunReport
from sparsetrain.lightning.report.masks import mask_figures

# The browser itself refuses anything that is not in the file.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_HEAD = ("layer", "shape", "runs", "engine", "density", "kept energy", "flip rate")


def write_report(path: Path, report: RunReport) -> None:
    """Write the page to `path` in UTF-8; a reader sees the old file or the new one, never half.

    The folder must exist. The temporary file lies beside `path` and is gone afterwards, also when
    writing fails.
    """
    page = render_report(report)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(page, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def render_report(report: RunReport) -> str:
    """Return the whole page. The same report always gives the same text."""
    style = files("sparsetrain.lightning.report").joinpath("style.css").read_text(encoding="utf-8")
    charts = "".join(chart(curve) for curve in report.curves)
    masks = "".join(mask_figures(pair) for pair in report.masks)
    body = "".join(
        (
            f"<header><h1>{escape(report.title)}</h1></header>",
            "".join(f'<p class="note">{escape(note)}</p>' for note in report.notes),
            _summary(report.summary),
            _section("Curves", f'<div class="charts">{charts}</div>' if charts else ""),
            _section("Layers", _layers(report.layers, report.shares)),
            _section("Masks", f'<div class="pairs">{masks}</div>' if masks else ""),
            _section("Configuration", _config(report.config_yaml)),
        )
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(report.title)}</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _section(title: str, content: str) -> str:
    return f"\n<section><h2>{title}</h2>{content}</section>" if content else ""


def _summary(summary: Sequence[tuple[str, str]]) -> str:
    if not summary:
        return ""
    cells = (f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in summary)
    return f'<dl class="summary">{"".join(cells)}</dl>'


def _layers(layers: Sequence[LayerRow], shares: str) -> str:
    """The converted layers in order, then the skipped ones with their reason."""
    if not layers:
        return ""
    converted = [row for row in layers if not row.reason]
    skipped = [row for row in layers if row.reason]
    head = "".join(f"<th>{name}</th>" for name in _HEAD)
    between = (
        f'<tr class="between"><th colspan="{len(_HEAD)}">'
        f"<span>skipped: these {len(skipped)} layers stay dense</span></th></tr>"
    )
    return (
        f"<p>{len(converted)} of {len(layers)} layers converted. {escape(shares)}</p>"
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>'
        + "".join(_converted(row) for row in converted)
        + (between if skipped else "")
        + "".join(_skipped(row) for row in skipped)
        + "</tbody></table></div>"
    )


def _converted(row: LayerRow) -> str:
    numbers = (row.density, row.kept_energy, row.flip_rate)
    return (
        f"<tr>{_name_and_shape(row)}<td>{escape(row.runs)}</td><td>{escape(row.engine)}</td>"
        + "".join(f'<td class="number">{_percent(value)}</td>' for value in numbers)
        + "</tr>"
    )


def _skipped(row: LayerRow) -> str:
    reason = f'<td colspan="{len(_HEAD) - 2}">{escape(row.reason)}</td>'
    return f'<tr class="skipped">{_name_and_shape(row)}{reason}</tr>'


def _name_and_shape(row: LayerRow) -> str:
    shape = " × ".join(map(str, row.shape))
    return f'<th scope="row">{escape(row.name)}</th><td class="number">{shape}</td>'


def _percent(fraction: float | None) -> str:
    if fraction is None:
        return "–"
    return f"{100 * fraction:.3g}%" if math.isfinite(fraction) else f"{fraction:g}"


def _config(config_yaml: str) -> str:
    if not config_yaml:
        return ""
    return (
        "<details><summary>the composed configuration of this run</summary>"
        f"<pre>{escape(config_yaml)}</pre></details>"
    )
