"""`dashboard`: a saved workspace and a report of a W&B project, or their specs without a key."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sparsetrain.cli.console import relative, show_values
from sparsetrain.cli.folder import make_folder
from sparsetrain.cli.overrides import check_form, split_word
from sparsetrain.lightning.dashboard import comparison, spec, workspace
from sparsetrain.lightning.loggers import online_or_why_not
from sparsetrain.lightning.report.record import write_whole
from sparsetrain.recipe import nearest

_KEYS = ("entity", "project", "runs", "out")
_NOT_IN_A_NAME = set("/\\#?%:")
OWN = "your-entity"
"""Stands in a spec for the entity that nobody gave."""


def dashboard(words: list[str]) -> None:
    """Save the workspace and the report of `project=`; without a key that the server takes, write
    what would be sent into `out=` instead."""
    options = _options(words)
    if importlib.util.find_spec("wandb_workspaces") is None:
        raise ValueError("dashboard needs wandb-workspaces: pip install 'sparsetrain[dashboard]'")
    project = options.get("project") or os.environ.get("WANDB_PROJECT") or "sparsetrain"
    runs = [name for name in options.get("runs", "").split(",") if name]
    folder = Path(options.get("out", "dashboard"))
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out={folder} is a file: give a folder, as out=dashboard")
    why = online_or_why_not()
    entity = options.get("entity") or os.environ.get("WANDB_ENTITY")
    entity = entity or (OWN if why else _own_entity())
    made = {"workspace": workspace(entity, project), "report": comparison(entity, project, runs)}
    specs = {name: spec(each) for name, each in made.items()}
    if why is None:
        rows, why = _saved(made)
        if why is None:
            show_values(rows)
            return
    make_folder(folder, f"out={folder}")
    for name, values in specs.items():
        write_whole(folder / f"{name}.json", json.dumps(values, indent=1) + "\n")
    files = [(name, str(relative(folder / f"{name}.json"))) for name in specs]
    told = f"{why}; what W&B would be sent is written, and reads back"
    show_values((("offline", told), *files), prose=("offline",))


def _saved(made: dict[str, Any]) -> tuple[tuple[tuple[str, str], ...], str | None]:
    """Where each is to be seen, or why W&B did not take it."""
    from requests import RequestException
    from wandb.errors import Error

    rows = []
    for name, each in made.items():
        save: Callable[[], Any] = each.save
        try:
            save()
            rows.append((name, str(each.url)))
        except (Error, RequestException, ValueError, OSError) as error:
            return (), str(error).strip().splitlines()[0] if str(error).strip() else name
    return tuple(rows), None


def _own_entity() -> str:
    import wandb

    return str(wandb.Api().default_entity)


def _options(words: list[str]) -> dict[str, str]:
    check_form(words)
    options = dict(split_word(word) for word in words)
    for key, value in options.items():
        if key not in _KEYS:
            raise ValueError(f"{key}= is no option of dashboard: {nearest(key, _KEYS)}")
        if not value:
            raise ValueError(f"{key}= is empty: give a value or leave it out")
    odd = sorted(set(options.get("project", "")) & _NOT_IN_A_NAME)
    if odd:
        fix = "write entity=… project=…" if odd == ["/"] else f"leave out {' '.join(odd)}"
        raise ValueError(f"project={options['project']} is no name that W&B takes: {fix}")
    return options
