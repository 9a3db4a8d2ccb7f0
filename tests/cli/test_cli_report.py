"""`report`: one run, several side by side, a sweep; and what `fit` says of a run."""

import re
from pathlib import Path

import pytest
from cli_helpers import call, fit

from sparsetrain.lightning.report import read_run


@pytest.fixture(scope="module")
def dense(tmp_path_factory) -> Path:
    """The run of `trained`, dense."""
    folder = tmp_path_factory.mktemp("dense")
    ended = fit(folder, "sparsity=dense", "seed=3")
    assert ended.status == 0, ended.err
    return folder


def test_a_run_says_how_to_make_it_again_and_on_what(trained):
    run = read_run(trained.folder)
    facts = dict(run.facts)
    assert facts["command"].startswith("python -m sparsetrain fit recipe=vit_tiny_24 ")
    assert "model.options.depth=2" in facts["command"]
    assert re.fullmatch(r"[0-9a-f]{40}(, with changes)?", facts.get("commit", "0" * 40))
    assert {"started", "versions", "hardware", "precision", "data"} <= facts.keys()
    assert (facts["seed"], facts["batch"]) == ("0", "64 images")
    assert run.state == "finished"
    assert run.config["sparsity"]["weight"]["decay"] == 2e-5
    assert {pair.name.rpartition(".")[2] for pair in run.masks} == {"fc1", "fc2"}
    assert {"perf/elapsed_s", "perf/memory_gib", "train/grad_norm"} <= run.metrics.keys()


def test_the_page_of_one_run_is_written_into_its_folder(trained):
    path = trained.folder / "report.html"
    before = path.read_text()
    path.unlink()
    ended = call("report", str(trained.folder))
    assert ended.status == 0, ended.err
    assert path.read_text() == before


def test_two_runs_stand_side_by_side_on_one_page(trained, dense, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = call("report", str(dense), str(trained.folder))
    assert ended.status == 0, ended.err
    page = Path("comparison.html").read_text()
    assert "<h1>dense against vit_tiny_24</h1>" in page
    for words in ("Accuracy over epochs", "Accuracy over wall-clock", "peak memory", "throughput"):
        assert words in page
    assert re.search(r"vit_tiny_24: \d\.\d\d× the images/s, .* \(against dense\)\.", page)
    assert len(page.encode()) < 200_000


def test_runs_have_the_names_that_they_are_given(trained, dense, tmp_path):
    out = tmp_path / "page.html"
    ended = call("report", f"base={dense}", f"ours={trained.last}", f"out={out}")
    assert ended.status == 0, ended.err
    assert "<h1>base against ours</h1>" in out.read_text()


def test_runs_of_one_kind_are_told_apart_by_their_words_then_by_their_folders(
    trained, dense, tmp_path
):
    out = tmp_path / "page.html"
    ended = call("report", str(dense), str(dense), str(trained.folder), f"out={out}")
    assert ended.status == 0, ended.err
    name = f"dense sparsity=dense seed=3 {dense.name}"
    assert f"<h1>{name} against {name} against vit_tiny_24</h1>" in out.read_text()


def test_a_folder_of_runs_is_all_of_them(trained, tmp_path):
    for name in ("0", "1"):
        (tmp_path / name).symlink_to(trained.folder)
    ended = call("report", str(tmp_path), f"out={tmp_path / 'page.html'}")
    assert ended.status == 0, ended.err
    assert ended.out.count("run ") == 2


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ((), "report needs a run: python -m sparsetrain report runs/RECIPE/TIME"),
        (("runs/vit",), "runs/vit is no run: it has neither run.json nor metrics.csv; there are "),
    ],
)
def test_what_is_no_run_is_told_in_a_line(words, complaint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("report", *words).complaint.startswith(complaint)


def test_a_folder_to_write_into_that_is_not_there_is_told(trained):
    complaint = call("report", str(trained.folder), "out=nowhere/page.html").complaint
    assert complaint == "out=nowhere/page.html: there is no folder nowhere"
