"""Parts of the page as HTML: tables and lists. Everything that a run says is escaped here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import yaml

from sparsetrain.lightning.report.compare import Row
from sparsetrain.lightning.report.data import LayerRow, Run

_HEAD = ("layer", "shape", "runs", "engine", "density", "kept energy", "flip rate")
_DENSE_HEAD = ("layer", "shape", "why")


def section(title: str, content: str) -> str:
    """Nothing without content."""
    return f"\n<section><h2>{title}</h2>{content}</section>" if content else ""


def summary(rows: Sequence[tuple[str, str]]) -> str:
    if not rows:
        return ""
    cells = (f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in rows)
    return f'<dl class="summary">{"".join(cells)}</dl>'


def facts(rows: Sequence[tuple[str, str]]) -> str:
    if not rows:
        return ""
    cells = (f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in rows)
    return f'<div class="scroll"><table class="facts"><tbody>{"".join(cells)}</tbody></table></div>'


def comparison(runs: Sequence[Run], rows: Sequence[Row]) -> str:
    """Measures down, runs across."""
    body = "".join(
        f'<tr><th scope="row">{escape(row.label)}</th>'
        + "".join(
            f"<td>{escape(cell.text)}"
            + (
                f' <span class="{_class(cell.better)}">{escape(cell.against)}</span>'
                * bool(cell.against)
            )
            + "</td>"
            for cell in row.cells
        )
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll"><table class="compare"><thead>{_heads(runs)}</thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def difference_table(runs: Sequence[Run], rows: Sequence[tuple[str, tuple[str, ...]]]) -> str:
    if not rows:
        return ""
    body = "".join(
        f'<tr><th scope="row">{_breakable(key)}</th>'
        + "".join(f"<td>{_breakable(value)}</td>" for value in values)
        + "</tr>"
        for key, values in rows
    )
    return (
        f'<div class="scroll"><table class="compare differ"><thead>{_heads(runs)}</thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _breakable(name: str) -> str:
    """A narrow column breaks it after its dots."""
    return escape(name).replace(".", ".<wbr>")


def layers(rows: Sequence[LayerRow], shares: str) -> str:
    """The converted layers in order, then the skipped ones with their reason."""
    if not rows:
        return ""
    converted = [row for row in rows if not row.reason]
    skipped = [row for row in rows if row.reason]
    said = f"{len(converted)} of {len(rows)} layers converted" + f"; {shares}" * bool(shares)
    return f"<p>{escape(said)}</p>" + "".join(
        (
            _layer_table("layers", _HEAD, map(_converted, converted)) if converted else "",
            f"<details><summary>{_stay(len(skipped))} dense</summary>"
            f"{_layer_table('dense', _DENSE_HEAD, map(_skipped, skipped))}</details>"
            if skipped
            else "",
        )
    )


def _stay(layers: int) -> str:
    return "1 layer stays" if layers == 1 else f"{layers} layers stay"


def _layer_table(kind: str, names: Sequence[str], rows: Iterable[str]) -> str:
    head = "".join(f"<th>{name}</th>" for name in names)
    return (
        f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def config(values: dict[str, Any]) -> str:
    if not values:
        return ""
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    return (
        "<details><summary>the composed configuration of this run</summary>"
        f"<pre>{escape(text)}</pre></details>"
    )


def _heads(runs: Sequence[Run]) -> str:
    heads = "".join(
        f'<th><i class="dash line{i % 6}"></i>{escape(run.label)}</th>'
        for i, run in enumerate(runs)
    )
    return f"<tr><th></th>{heads}</tr>"


def _class(better: bool | None) -> str:
    return "same" if better is None else "better" if better else "worse"


def _converted(row: LayerRow) -> str:
    return (
        f"<tr>{_name_and_shape(row)}<td>{escape(row.runs)}</td><td>{escape(row.engine)}</td>"
        f'<td class="number bar" style="--share:{_share(row.density)}">{_percent(row.density)}</td>'
        f'<td class="number">{_energy(row)}</td>'
        f'<td class="number">{_percent(row.flip_rate)}</td></tr>'
    )


def _energy(row: LayerRow) -> str:
    """Kept by the outer level, where there are two, and by the whole mask."""
    kept = _percent(row.kept_energy)
    if row.outer_energy is None:
        return kept
    why = "in the blocks or columns that are kept, and of those under the mask inside"
    return f'<span title="{why}">{_percent(row.outer_energy)} → {kept}</span>'


def _share(fraction: float | None) -> str:
    if fraction is None or not math.isfinite(fraction):
        return "0%"
    return f"{100 * fraction:.3g}%"


def _skipped(row: LayerRow) -> str:
    return f'<tr class="skipped">{_name_and_shape(row)}<td>{escape(row.reason)}</td></tr>'


def _name_and_shape(row: LayerRow) -> str:
    shape = escape(" × ".join(map(str, row.shape)))
    return f'<th scope="row">{_breakable(row.name)}</th><td class="number">{shape}</td>'


def _percent(fraction: float | None) -> str:
    if fraction is None:
        return "–"
    return f"{100 * fraction:.3g}%" if math.isfinite(fraction) else f"{fraction:g}"
