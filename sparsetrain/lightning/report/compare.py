"""Several runs side by side: how good, how fast, and what differs between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sparsetrain.lightning.report import measures
from sparsetrain.lightning.report.data import Run
from sparsetrain.lightning.report.measures import best, duration, validations

_SAME_ANYWAY = ("run_dir", "callbacks", "logger", "checkpoint")
"""Parts of a config that differ with the run folder, or change nothing of what is trained."""

_TOLD = ("commit", "hardware", "versions")
"""Facts without which speeds do not compare."""

_DENSE_PRODUCTS = " Its products run dense, so that sparsity makes nothing faster here."


@dataclass(frozen=True)
class Cell:
    """A value, and how it stands against the baseline's; better: True, False, None for neither."""

    text: str
    against: str = ""
    better: bool | None = None


@dataclass(frozen=True)
class Row:
    """A measure of every run, in their order."""

    label: str
    cells: tuple[Cell, ...]


def baseline(runs: Sequence[Run]) -> int:
    """The place of the first dense run, else of the first."""
    return next((i for i, run in enumerate(runs) if measures.is_dense(run)), 0)


def table(runs: Sequence[Run]) -> list[Row]:
    """The measures that at least one run has, against the baseline."""
    base = baseline(runs)

    def row(label: str, value: Callable[[Run], Any], text: Callable[[Any], str], against: Any):
        values = [value(run) for run in runs]
        cells = tuple(
            Cell("–")
            if each is None
            else Cell(text(each), *against(each, values[base]))
            if i != base and values[base] is not None and against is not None
            else Cell(text(each))
            for i, each in enumerate(values)
        )
        return Row(label, cells)

    target = _target(runs)
    rows = [
        row("what is sparse", measures.kind, str, None),
        row("best top-1", lambda r: _top1(best(r)), _percent, _points),
        row("last top-1", lambda r: _top1(_last(r)), _percent, _points),
        row("best epoch", lambda run: _epoch(best(run)), "{:.4g}".format, None),
        row("throughput", measures.images_per_s, "{:,.0f} images/s".format, _times_as_fast),
        row("peak memory", measures.memory_gib, "{:.2f} GiB".format, _percent_of),
        row("wall-clock", measures.elapsed_s, duration, _percent_of),
    ]
    if target is not None:
        to = f"time to {target:.2f} %"
        rows.append(row(to, lambda r: measures.seconds_to(r, target), duration, _percent_of))
    rows += [
        row("optimizer steps", measures.steps, "{:,}".format, None),
        row("seed", lambda run: dict(run.facts).get("seed"), str, None),
        row("ended", lambda run: run.state or None, str, None),
    ]
    return [row for row in rows if any(cell.text != "–" for cell in row.cells)]


def verdicts(runs: Sequence[Run]) -> list[str]:
    """A sentence for each run but the baseline: is it as good, is it faster? One more where all of
    its sparse layers multiply dense, so that a difference in speed has other causes."""
    base = runs[baseline(runs)]
    sentences = []
    for run in runs:
        parts = (_speed(run, base), _quality(run, base), _memory(run, base))
        said = ", ".join(part for part in parts if part)
        if run is not base and said:
            also = _DENSE_PRODUCTS * _multiplies_dense(run)
            sentences.append(f"{run.label}: {said} (against {base.label}).{also}")
    return sentences


def differences(runs: Sequence[Run]) -> list[tuple[str, tuple[str, ...]]]:
    """The keys of the configs, and the facts, in which the runs differ, with each run's value."""
    flat = [dict(_flat(run.config)) for run in runs]
    keys = dict.fromkeys(key for each in flat for key in each)
    groups = {key.rpartition(".")[0] for key in keys}
    keys = [key for key in keys if key not in groups]  # null here, with keys of its own there
    found = [(key, tuple(each.get(key, "–") for each in flat)) for key in keys if all(flat)]
    facts = [dict(run.facts) for run in runs]
    found += [(key, tuple(each.get(key, "–") for each in facts)) for key in _TOLD]
    return [(key, values) for key, values in found if len(set(values)) > 1]


def _flat(config: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in config.items():
        if prefix or key not in _SAME_ANYWAY:
            if isinstance(value, dict) and value:
                yield from _flat(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", _shown(value)


def _shown(value: Any) -> str:
    """As the command line writes it."""
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else str(value)


def _multiplies_dense(run: Run) -> bool:
    """Whether a run has sparse layers, and all of them are masked."""
    engines = [row.engine for row in run.layers if not row.reason]
    return bool(engines) and all(engine.startswith("masked") for engine in engines)


def _target(runs: Sequence[Run]) -> float | None:
    """The accuracy that every run reached."""
    reached = [best(run) for run in runs]
    tops = [each.top1 for each in reached if each is not None]
    return min(tops) if tops and len(tops) == len(runs) else None


def _speed(run: Run, base: Run) -> str:
    ours, theirs = measures.images_per_s(run), measures.images_per_s(base)
    return f"{ours / theirs:.2f}× the images/s" if ours and theirs else ""


def _quality(run: Run, base: Run) -> str:
    ours, theirs = best(run), best(base)
    if ours is None or theirs is None:
        return ""
    points = ours.top1 - theirs.top1
    if abs(points) < 0.005:
        return "the same best top-1"
    return f"{abs(points):.2f} points {'higher' if points > 0 else 'lower'} best top-1"


def _memory(run: Run, base: Run) -> str:
    ours, theirs = measures.memory_gib(run), measures.memory_gib(base)
    return f"{ours / theirs:.0%} of the memory" if ours and theirs else ""


def _last(run: Run) -> measures.Validation | None:
    return (validations(run) or [None])[-1]


def _top1(validation: measures.Validation | None) -> float | None:
    return None if validation is None else validation.top1


def _epoch(validation: measures.Validation | None) -> float | None:
    return None if validation is None else validation.epoch


def _percent(value: float) -> str:
    return f"{value:.2f} %"


def _points(value: float, base: float) -> tuple[str, bool | None]:
    points = value - base
    sign = "+" if points > 0 else "−"
    return f"{sign}{abs(points):.2f} points", None if abs(points) < 0.005 else points > 0


def _times_as_fast(value: float, base: float) -> tuple[str, bool | None]:
    return f"{value / base:.2f}×", None if abs(value / base - 1) < 0.005 else value > base


def _percent_of(value: float, base: float) -> tuple[str, bool | None]:
    return f"{value / base:.0%}", None if abs(value / base - 1) < 0.005 else value < base
