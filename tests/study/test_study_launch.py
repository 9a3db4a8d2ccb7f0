"""What a study leaves out, in which order it runs, and what it keeps. No run is trained here."""

import argparse
import json
import subprocess
import sys
from dataclasses import replace

import launch
import pytest
import rows
from plan import Run, recipe_digest, variants

from sparsetrain.recipe import compose

RUN = Run("cifar10", "cifar10_vit", "c0ffee", "dense", 0, 3, False, "/data", ("sparsity=dense",))


def row_of(run, seconds=10.0, date="2026-01-01", **more):
    keys = ("data", "recipe_digest", "variant", "seed", "epochs", "choose")
    row = {key: getattr(run, key) for key in keys} | {"words": list(run.words)}
    numbers = {"top1": 90.0, "top1_val": 90.0, "top1_sparse": None, "images_per_s": 1.0}
    return row | numbers | {"seconds": seconds, "date": date, "resumed": False} | more


def arguments(folder, **changed):
    defaults = {
        "gpus": 1, "jobs": 1, "budget_seconds": None,
        "runs": str(folder / "runs"), "commit": None,
    }  # fmt: skip
    return argparse.Namespace(**{**defaults, **changed})


@pytest.fixture
def trains(monkeypatch):
    """Instead of training, a run writes its row at once; `fails` are seeds that do not."""
    begun, fails = [], []

    def begin(run, gpu, args, gpus):
        from pathlib import Path

        begun.append((run.variant, run.seed, gpu))
        folder = Path(args.runs) / run.name
        folder.mkdir(parents=True)
        (folder / "output.log").write_text("it ended so")
        (folder / "row.json").write_text(json.dumps(row_of(run)))
        status = int(run.seed in fails)
        process = subprocess.Popen(
            [sys.executable, "-S", "-c", f"raise SystemExit({status})"], text=True
        )
        return launch.Job(run, gpu, process, folder)

    monkeypatch.setattr(launch, "begin", begin)
    monkeypatch.setattr(launch.time, "sleep", lambda seconds: None)
    return begun, fails


def test_a_run_with_a_row_is_left_out_unless_anything_of_it_differs(tmp_path, trains):
    planned = [RUN, replace(RUN, seed=1), replace(RUN, words=("sparsity=dense", "optimizer.lr=1"))]
    file = tmp_path / "accuracy.json"
    assert launch.launch(planned, [row_of(RUN)], file, arguments(tmp_path)) == 0
    assert [seed for _, seed, _ in trains[0]] == [1, 0]
    assert len(rows.read(file)) == 2
    trains[0].clear()
    assert launch.launch(planned, [row_of(RUN), *rows.read(file)], file, arguments(tmp_path)) == 0
    assert trains[0] == []


def test_a_row_that_a_call_before_left_on_the_machine_counts(tmp_path, trains):
    args, file = arguments(tmp_path), tmp_path / "accuracy.json"
    launch.launch([RUN], [], file, args)
    file.unlink()
    launch.launch([RUN], [], file, args)
    assert len(trains[0]) == 1
    assert len(rows.read(file)) == 1


def test_a_run_that_fails_costs_no_other_and_is_told(tmp_path, trains, capsys):
    trains[1].append(1)
    planned = [replace(RUN, seed=seed) for seed in range(3)]
    file = tmp_path / "accuracy.json"
    assert launch.launch(planned, [], file, arguments(tmp_path, jobs=2, gpus=2)) == 1
    assert sorted(row["seed"] for row in rows.read(file)) == [0, 2]
    out = capsys.readouterr().out
    assert "it ended so" in out
    assert "1 runs failed" in out
    assert {gpu for *_, gpu in trains[0]} == {0, 1}


def test_no_run_is_started_shortly_before_the_end_of_the_budget(tmp_path, trains, capsys):
    args = arguments(tmp_path, budget_seconds=launch.START_SECONDS - 1)
    assert launch.launch([RUN], [], tmp_path / "accuracy.json", args) == 0
    assert trains[0] == []
    assert "0 runs stopped, 1 not started" in capsys.readouterr().out


def test_runs_are_told_to_save_at_the_end_of_the_budget(tmp_path, monkeypatch, capsys):
    wait = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(143)); "
    wait += "print('ready', flush=True); time.sleep(600)"

    def begin(run, gpu, args, gpus):
        process = subprocess.Popen(
            [sys.executable, "-S", "-c", wait], text=True, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        with process.stdout as output:
            output.readline()
        begun.append(process)
        return launch.Job(run, gpu, process, tmp_path)

    begun = []
    monkeypatch.setattr(launch, "begin", begin)
    monkeypatch.setattr(launch, "START_SECONDS", 0.0)
    args = arguments(tmp_path, budget_seconds=0.1)
    assert launch.launch([RUN], [], tmp_path / "accuracy.json", args) == 0
    assert [process.returncode for process in begun] == [143]
    assert "1 runs stopped, 0 not started" in capsys.readouterr().out


def test_merging_keeps_the_newest_row_of_each_run(tmp_path):
    old, new = (row_of(RUN, date=f"2026-01-0{day}", top1=float(day)) for day in (1, 2))
    rows.write(tmp_path / "a.json", [new, row_of(replace(RUN, seed=1))])
    rows.write(tmp_path / "b.json", [old, row_of(replace(RUN, data="tiny100"))])
    folder = tmp_path / "results"
    rows.merge([tmp_path / "a.json", tmp_path / "b.json"], folder)
    merged = rows.read(folder / "accuracy-cifar10.json")
    assert [(row["seed"], row["top1"]) for row in merged] == [(0, 2.0), (1, 90.0)]
    assert len(rows.read(folder / "accuracy-tiny100.json")) == 1


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["cifar10_vit", "tiny100_vit"])
def test_every_variant_is_a_config_of_the_recipes(recipe):
    for variant in variants().values():
        config = compose([f"recipe={recipe}", *variant.words])
        assert config.data.cache == "gpu"


def test_a_recipe_that_says_something_else_has_another_digest(tmp_path):
    for part in ("recipes", "configs/model"):
        (tmp_path / part).mkdir(parents=True)
    recipe, network = tmp_path / "recipes" / "r.yaml", tmp_path / "configs" / "model" / "m.yaml"
    recipe.write_text("defaults: [{override /model: m}]\nlr: 1.0 # a comment\n")
    network.write_text("depth: 7\n")
    first = recipe_digest("r", tmp_path)
    recipe.write_text("defaults: [{override /model: m}]\nlr: 1.0\n")
    assert recipe_digest("r", tmp_path) == first
    network.write_text("depth: 8\n")
    assert recipe_digest("r", tmp_path) != first


def test_a_study_stays_on_the_gpus_that_it_was_given(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert [launch.visible(gpu) for gpu in range(2)] == ["2", "3"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert [launch.visible(gpu) for gpu in range(2)] == ["0", "1"]
