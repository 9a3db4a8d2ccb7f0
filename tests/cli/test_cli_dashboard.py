"""`dashboard`: specs that W&B's own SDK reads back, and what is said where they are not sent."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import wandb
from cli_helpers import call
from wandb.errors import CommError
from wandb_records import read_wandb

wr: Any = pytest.importorskip("wandb_workspaces.reports.v2")
ws: Any = pytest.importorskip("wandb_workspaces.workspaces")

KEY = "k" * 40
NOT_ON_A_CPU = {"perf/mfu"}


@pytest.fixture(scope="module")
def specs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("specs")
    ended = call("dashboard", "entity=lab", "project=mine", "runs=a,b c", f"out={folder}")
    assert ended.status == 0, ended.err
    return folder


def workspace_of(folder: Path) -> Any:
    return ws.Workspace._from_model(
        ws.internal.View.model_validate_json((folder / "workspace.json").read_text())
    )


def report_of(folder: Path) -> Any:
    text = (folder / "report.json").read_text()
    return wr.Report._from_model(wr.internal.ReportViewspec.model_validate_json(text))


def grids(report: Any) -> list[Any]:
    return [block for block in report.blocks if isinstance(block, wr.PanelGrid)]


def test_the_workspace_reads_back_in_sections(specs):
    made = workspace_of(specs)
    assert (made.entity, made.project, made.name) == ("lab", "mine", "sparsetrain")
    assert [section.name for section in made.sections] == [
        "Is it as good?",
        "Is it faster?",
        "Sparsity",
        "Optimization",
        "Layer by layer",
    ]
    clock = next(p for p in made.sections[0].panels if "wall-clock" in str(p.title))
    assert (clock.x.name, [y.name for y in clock.y]) == ("perf/elapsed_s", ["val/top1"])


def test_the_report_compares_the_runs_that_are_named(specs):
    made = report_of(specs)
    assert made.title == "Dense and sparse side by side"
    assert len(grids(made)) == 3
    for grid in grids(made):
        assert "['a', 'b c']" in str(grid.runsets[0].filters)
    bars, _, differences = grids(made)
    assert [panel.metrics[0].name for panel in bars.panels] == [
        "val/top1.max",
        "perf/images_per_s.mean",
        "perf/memory_gib.max",
        "perf/elapsed_s.max",
    ]
    assert isinstance(differences.panels[0], wr.RunComparer)


def test_everything_that_is_drawn_is_logged(specs, trained):
    written = read_wandb(trained.folder)
    logged = {key for row in written.history for key in row} | NOT_ON_A_CPU
    summary = {f"{key}.{part}" for key, value in written.summary.items() for part in parts(value)}
    panels = [panel for section in workspace_of(specs).sections for panel in section.panels]
    lines = [panel for panel in panels if isinstance(panel, wr.LinePlot)]
    assert {y.name for panel in lines for y in panel.y} <= logged
    assert {panel.x.name for panel in lines} <= logged
    bars = list(grids(report_of(specs))[0].panels)
    assert {metric.name for panel in bars for metric in panel.metrics} <= summary
    keys = {
        key for panel in panels if isinstance(panel, wr.MediaBrowser) for key in panel.media_keys
    }
    assert {key.split("/path")[0] for key in keys} <= {
        key.rpartition("/")[0] for key in written.summary
    }


def parts(value) -> list[str]:
    return list(value) if isinstance(value, dict) else []


def test_a_run_may_have_any_name(tmp_path):
    name = 'vit_tiny_24 sparsity=dense > it\'s "a" in b'
    assert call("dashboard", f"runs={name}", f"out={tmp_path}").status == 0
    assert json.dumps(name) in (tmp_path / "report.json").read_text()


def test_without_runs_all_are_compared(tmp_path):
    assert call("dashboard", f"out={tmp_path}").status == 0
    assert grids(report_of(tmp_path))[0].runsets[0].filters == ""
    assert json.loads((tmp_path / "workspace.json").read_text())["entity"] == "your-entity"


def test_the_variables_of_wandb_name_project_and_entity(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("WANDB_ENTITY", "lab")
    assert call("dashboard", f"out={tmp_path}").status == 0
    made = workspace_of(tmp_path)
    assert (made.entity, made.project) == ("lab", "mine")


@pytest.fixture
def online(monkeypatch):
    """A key that the server takes."""
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(wandb, "login", lambda **_: True)
    return monkeypatch


def test_with_a_key_both_are_saved_and_their_addresses_printed(online, tmp_path):
    for kind, name in ((ws.Workspace, "workspace"), (wr.Report, "report")):
        online.setattr(kind, "save", lambda self: self)
        online.setattr(kind, "url", property(lambda self, name=name: f"https://host/{name}"))
    ended = call("dashboard", "entity=lab", f"out={tmp_path / 'specs'}")
    assert ended.status == 0, ended.err
    assert [line.split()[-1] for line in ended.out.splitlines()] == [
        "https://host/workspace",
        "https://host/report",
    ]
    assert not (tmp_path / "specs").exists()


def test_where_saving_fails_the_specs_are_written_with_the_reason(online, tmp_path):
    def refuse(self):
        raise CommError("no such entity\nmore")

    online.setattr(ws.Workspace, "save", refuse)
    ended = call("dashboard", "entity=lab", f"out={tmp_path}")
    assert ended.status == 0, ended.err
    assert ended.out.splitlines()[0].split(None, 1)[1].startswith("no such entity; what W&B would")
    assert (tmp_path / "report.json").is_file()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("projekt=x",), "projekt= is no option of dashboard: did you mean project?"),
        (("project=",), "project= is empty: give a value or leave it out"),
    ],
)
def test_a_wrong_word_is_told_in_a_line(words, complaint):
    assert call("dashboard", *words).complaint == complaint


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    complaint = call("dashboard").complaint
    assert complaint == "dashboard needs wandb-workspaces: pip install 'sparsetrain[dashboard]'"
