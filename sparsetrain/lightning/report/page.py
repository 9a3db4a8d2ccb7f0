"""The report page: one HTML file that needs no network, of one run or of several side by side."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from sparsetrain.lightning.report import compare, measures
from sparsetrain.lightning.report.charts import charts_of, charts_of_many, maps_of
from sparsetrain.lightning.report.data import Run
from sparsetrain.lightning.report.masks import mask_figures
from sparsetrain.lightning.report.parts import (
    comparison,
    config,
    difference_table,
    facts,
    layers,
    section,
    summary,
)
from sparsetrain.lightning.report.record import write_whole

_SCRIPTS = ("uplot/uPlot.iife.min.js", "charts.js", "maps.js")
_STYLES = ("uplot/uPlot.min.css", "style.css")

_MOST_IN_TITLE = 3  # runs that a title names


def write_report(path: Path, runs: Sequence[Run]) -> None:
    """Write the page of one run or more to `path`, whole or not at all. The folder must exist."""
    write_whole(path, render_report(runs))


def render_report(runs: Sequence[Run]) -> str:
    """Return the whole page. The same runs always give the same text."""
    if not runs:
        raise ValueError("runs is empty: give at least one")
    return _one(runs[0]) if len(runs) == 1 else _many(runs)


def _one(run: Run) -> str:
    charts, maps = charts_of(run), maps_of(run)
    body = (
        _header(run.title, run.notes),
        summary(_cards(run)),
        section("Curves", _slots(charts, "chart")),
        section("Layer by layer", _slots(maps, "map")),
        section("Masks", _masks(run)),
        section("Layers", layers(run.layers, run.shares)),
        section("How it ran", facts(_with_state(run))),
        section("Configuration", config(run.config)),
    )
    return _page(run.title, body, charts, maps)


def _many(runs: Sequence[Run]) -> str:
    charts = charts_of_many(runs)
    said = "".join(f"<p>{escape(sentence)}</p>" for sentence in compare.verdicts(runs))
    alone = (
        f"<details><summary>{escape(_named(run))}</summary>"
        f"{facts(_with_state(run))}{layers(run.layers, run.shares)}</details>"
        for run in runs
    )
    title = " against ".join(run.label for run in runs)
    if len(runs) > _MOST_IN_TITLE:
        title = f"{len(runs)} runs side by side"  # their labels head the columns
    body = (
        _header(title, tuple(dict.fromkeys(note for run in runs for note in run.notes))),
        f'<div class="verdicts">{said}</div>' if said else "",
        section("Side by side", comparison(runs, compare.table(runs))),
        section("Curves", _slots(charts, "chart")),
        section("What differs", difference_table(runs, compare.differences(runs))),
        section("Each run", "".join(alone)),
    )
    return _page(title, body, charts, [])


def _named(run: Run) -> str:
    """The title, behind the label unless it begins with it."""
    return run.title if run.title.startswith(run.label) else f"{run.label}: {run.title}"


def _page(title: str, body: Sequence[str], charts: list[Any], maps: list[Any]) -> str:
    scripts = [_asset(name) for name in _SCRIPTS] if charts or maps else []
    data = json.dumps({"charts": charts, "maps": maps}, separators=(",", ":"), allow_nan=False)
    data = data.replace("<", "\\u003c")  # so that no name can end the element it is in
    # The browser itself refuses anything that is not in the file, and scripts that are not ours.
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    closed = "default-src 'none'; base-uri 'none'; form-action 'none'"
    policy = f"{closed}; style-src 'unsafe-inline'; img-src data:; script-src {hashes}"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy.strip()}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n"
        + "".join(f"<style>\n{_asset(name)}</style>\n" for name in _STYLES)
        + f"</head>\n<body>\n<main>\n{''.join(body)}\n</main>\n"
        + f'<script type="application/json" id="data">{data}</script>\n'
        + "".join(f"<script>{script}</script>\n" for script in scripts)
        + "</body>\n</html>\n"
    )


def _header(title: str, notes: Sequence[str]) -> str:
    said = "".join(f'<p class="note">{escape(note)}</p>' for note in notes)
    return f"<header><h1>{escape(title)}</h1></header>{said}"


def _cards(run: Run) -> list[tuple[str, str]]:
    """What people look for first."""
    best, last = measures.best(run), (measures.validations(run) or [None])[-1]
    rows = []
    if best is not None and last is not None:
        rows.append(("best top-1", f"{best.top1:.2f} % in epoch {best.epoch:.4g}"))
        rows.append(("last top-1", f"{last.top1:.2f} %"))
    speed, memory = measures.images_per_s(run), measures.memory_gib(run)
    rows += [] if speed is None else [("throughput", f"{speed:,.0f} images/s")]
    rows += [] if memory is None else [("peak memory", f"{memory:.2f} GiB")]
    elapsed, steps = measures.elapsed_s(run), measures.steps(run)
    rows += [] if elapsed is None else [("wall-clock", measures.duration(elapsed))]
    rows += [] if steps is None else [("optimizer steps", f"{steps:,}")]
    density = measures.density(run)
    if run.layers or measures.is_dense(run):
        rows.append(("what is sparse", measures.kind(run)))
    rows += [] if density is None else [("density of those", f"{density:.3f}")]
    return rows


def _with_state(run: Run) -> list[tuple[str, str]]:
    return [*run.facts, *([("ended", run.state)] if run.state else [])]


def _slots(drawings: Sequence[Any], kind: str) -> str:
    """Places for a script to draw in, each with its title."""
    if not drawings:
        return ""
    boxes = (
        f'<figure class="{kind}"><figcaption>{escape(each["title"])} '
        f'<span class="unit">{escape(each["unit"])}</span></figcaption>'
        f'<div class="draw" data-{kind}="{i}"></div></figure>'
        for i, each in enumerate(drawings)
    )
    without = "<noscript><p>Charts need JavaScript; metrics.csv has their numbers.</p></noscript>"
    zoom = (
        '<p class="hint">Point or tap for values; drag to zoom in, double-click to zoom out.</p>'
        * (kind == "chart")
    )
    return f'{without}{zoom}<div class="charts">{"".join(boxes)}</div>'


def _masks(run: Run) -> str:
    pairs = "".join(mask_figures(pair) for pair in run.masks)
    return f'<div class="pairs">{pairs}</div>' if pairs else ""


def _asset(name: str) -> str:
    return files("sparsetrain.lightning.report").joinpath(name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
