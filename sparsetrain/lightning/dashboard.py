"""The saved workspace and the report of a W&B project, by `wandb-workspaces` (an extra)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

_STEP = "trainer/global_step"

# Sections with their panels: title, x, metrics.
_LINES = (
    (
        "Is it as good?",
        (
            ("Top-1 over steps", _STEP, ("val/top1",)),
            ("Top-1 over wall-clock (s)", "perf/elapsed_s", ("val/top1",)),
            ("Loss in validation", _STEP, ("val/loss",)),
            ("Loss in training", _STEP, ("train/loss",)),
        ),
    ),
    (
        "Is it faster?",
        (
            ("Images a second", _STEP, ("perf/images_per_s",)),
            ("Milliseconds a step", _STEP, ("perf/step_ms",)),
            ("Peak memory (GiB)", _STEP, ("perf/memory_gib",)),
            ("Model FLOPs utilization", _STEP, ("perf/mfu",)),
        ),
    ),
    (
        "Sparsity",
        (
            ("Flip rate", _STEP, ("sparsity/flip_rate",)),
            ("Density", _STEP, ("sparsity/density",)),
            ("Kept energy", _STEP, ("sparsity/kept_energy",)),
            ("Phase: 0 dense warm-up, 1 sparse, 2 dense tail", _STEP, ("sparsity/phase",)),
            ("Choosing masks (ms)", _STEP, ("perf/sparsify_ms",)),
        ),
    ),
    (
        "Optimization",
        (
            ("Gradient norm", _STEP, ("train/grad_norm",)),
            ("Learning rate", _STEP, ("train/lr",)),
        ),
    ),
)
_PICTURES = ("maps/kept_energy", "maps/flip_rate", "masks")
_BARS = (
    ("Best top-1", "val/top1.max"),
    ("Images a second", "perf/images_per_s.mean"),
    ("Peak memory (GiB)", "perf/memory_gib.max"),
    ("Wall-clock (s)", "perf/elapsed_s.max"),
)
_TEXT = (
    "Runs of this project side by side: accuracy over steps and over wall-clock, images a second "
    "and memory. Runs of different hardware, batch or length do not compare; the last panel lists "
    "what differs."
)


def workspace(entity: str, project: str) -> Any:
    """Panels for every run of a project, in four sections and one of pictures."""
    wr, ws = _reports(), _workspaces()
    sections = [ws.Section(name=name, panels=_plots(lines), is_open=True) for name, lines in _LINES]
    pictures: list[Any] = [wr.MediaBrowser(title=key, media_keys=[key]) for key in _PICTURES]
    sections.append(ws.Section(name="Layer by layer", panels=pictures, is_open=True))
    return ws.Workspace(entity=entity, project=project, name="sparsetrain", sections=sections)


def comparison(entity: str, project: str, runs: Sequence[str] = ()) -> Any:
    """A report that compares the runs of these names, or all."""
    wr = _reports()
    bars: list[Any] = [wr.BarPlot(title=title, metrics=[metric]) for title, metric in _BARS]
    lines = [plot for _, section in _LINES for plot in _plots(section)]
    grids = (
        ("At a glance", bars),
        ("Curves", lines),
        ("What differs", [wr.RunComparer(diff_only="split")]),
    )
    blocks: list[Any] = [wr.P(_TEXT)]
    for heading, panels in grids:
        shown = wr.PanelGrid(runsets=[wr.Runset(filters=_named(runs))], panels=panels)
        blocks += [wr.H2(heading), shown]
    return wr.Report(
        entity=entity,
        project=project,
        title="Dense and sparse side by side",
        description="Made by `python -m sparsetrain dashboard`.",
        blocks=blocks,
    )


def spec(made: Any) -> dict[str, Any]:
    """What W&B is sent for a workspace or a report, as plain values, read back by its own SDK.

    Raises ValueError if it does not read back as it was written.
    """
    model = made._to_model()
    text = model.model_dump_json(by_alias=True, exclude_none=True)  # as it is sent
    again = type(made)._from_model(type(model).model_validate_json(text))
    if _panels(again) != _panels(made):
        raise ValueError(f"the {type(made).__name__} does not read back with the panels it has")
    return json.loads(text)


def _plots(lines: Sequence[tuple[str, str, tuple[str, ...]]]) -> list[Any]:
    wr = _reports()
    return [wr.LinePlot(title=title, x=x, y=list(y)) for title, x, y in lines]


def _reports() -> Any:
    import wandb_workspaces.reports.v2 as reports

    return reports


def _workspaces() -> Any:
    import wandb_workspaces.workspaces as workspaces

    return workspaces


def _named(runs: Sequence[str]) -> str:
    listed = ", ".join(f"'{_literal(name)}'" for name in runs)
    return f"Metric('Name') in [{listed}]" if runs else ""


def _literal(name: str) -> str:
    """Escaped, because the SDK replaces operators in the text of a filter, as `=` by `==`, before
    it parses that as Python."""
    return "".join(char if char.isalnum() else f"\\U{ord(char):08x}" for char in name)


def _panels(made: Any) -> list[tuple[str, str]]:
    """Kind and title of each panel of a workspace or a report."""
    holders = getattr(made, "sections", None) or made.blocks
    panels = [panel for holder in holders for panel in getattr(holder, "panels", ())]
    return [(type(panel).__name__, str(getattr(panel, "title", ""))) for panel in panels]
