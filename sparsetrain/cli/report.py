"""`report`: the page of one run, or of several side by side."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from sparsetrain.cli.console import relative, show_values
from sparsetrain.cli.overrides import split_word
from sparsetrain.lightning.report import Run, read_run, write_report
from sparsetrain.lightning.report.measures import is_dense

_FILES = ("run.json", "metrics.csv")


def report(words: list[str]) -> None:
    """Write the page of the run folders that are named, as NAME=FOLDER where a run gets a name."""
    named, out = [], None
    for word in words:
        key, value = split_word(word)
        if word.startswith("-"):
            raise ValueError(f"{word} is no flag of report: it takes NAME=FOLDER, FOLDER and out=")
        if key == "out" and not value:
            raise ValueError("out= is empty: give a file, as out=comparison.html")
        if Path(word).exists() or not value:
            named.append(("", Path(word)))
        elif key == "out":
            out = Path(value)
        else:
            named.append((key, Path(value)))
    if not named:
        raise ValueError("report needs a run: python -m sparsetrain report runs/RECIPE/TIME")
    found = [(name, folder) for name, path in named for folder in folders(path)]
    runs = labelled([(name, read_run(folder)) for name, folder in found])
    if out is None:
        out = found[0][1] / "report.html" if len(runs) == 1 else Path("comparison.html")
    if out.suffix not in (".html", ".htm") and not out.is_dir():
        raise ValueError(f"out={out}: a report is a page; give out={out.with_suffix('.html')}")
    if out.is_dir():
        raise ValueError(f"out={out} is a folder: give a file in it, as {out / 'comparison.html'}")
    if not out.parent.is_dir():
        raise ValueError(f"out={out}: there is no folder {out.parent}")
    write_report(out, runs)
    show_values(
        (
            *(("run", f"{r.label}: {relative(f)}") for r, (_, f) in zip(runs, found, strict=True)),
            ("report", str(relative(out))),
        )
    )


def folders(path: Path) -> Iterator[Path]:
    """The run folders that a path names: itself, or those in it (a sweep). Raises
    FileNotFoundError, naming the nearest, for a path that is none and has none."""
    if path.is_file():
        path = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    if _is_run(path):
        yield path
        return
    inside = sorted(child for child in path.glob("*") if _is_run(child))
    if not inside:
        runs = {str(file.parent) for name in _FILES for file in Path("runs").glob(f"**/{name}")}
        near = ", ".join(difflib.get_close_matches(str(path), sorted(runs), n=3, cutoff=0.0))
        raise FileNotFoundError(
            f"{path} is no run: it has neither {' nor '.join(_FILES)}; "
            f"there are {near or 'none under runs/'}"
        )
    yield from inside


def labelled(named: list[tuple[str, Run]]) -> list[Run]:
    """Runs with labels that tell them apart: the name that was given, else `dense` or the recipe;
    where those are the same, with the words of the command line that not all runs have, and where
    those are too, with the folder's name."""
    labels = [name or _short(run) for name, run in named]
    shared = set.intersection(*({*run.overrides} for _, run in named))
    for more in (lambda run: " ".join(_own(run, shared)), lambda run: run.label):
        labels = [
            f"{label} {more(run)}".strip() if labels.count(label) > 1 else label
            for label, (_, run) in zip(labels, named, strict=True)
        ]
    return [replace(run, label=label) for label, (_, run) in zip(labels, named, strict=True)]


def _short(run: Run) -> str:
    return "dense" if is_dense(run) else run.title.partition(":")[0]


def _own(run: Run, shared: set[str]) -> list[str]:
    return [w for w in run.overrides if w not in shared and split_word(w)[0] not in _UNTOLD]


_UNTOLD = ("recipe", "checkpoint", "hydra.run.dir")
"""Keys that say where a run's files are, or what its title says."""


def _is_run(path: Path) -> bool:
    return any((path / name).is_file() for name in _FILES)
