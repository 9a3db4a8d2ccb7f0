"""What the charts of a report draw, and what several runs are compared by."""

from __future__ import annotations

import math

import pytest

from sparsetrain.lightning.report import LayerRow, Run, Span
from sparsetrain.lightning.report.charts import charts_of, charts_of_many, maps_of, thin_out
from sparsetrain.lightning.report.compare import baseline, differences, table, verdicts
from sparsetrain.lightning.report.measures import best, duration, seconds_to, validations

DENSE = (LayerRow("fc1", (8, 8), reason="sparsity.weight is null"),)
SPARSE = (LayerRow("fc1", (8, 8), "2:4 weight", "native", density=0.5),)


def run(label="run", layers=SPARSE, top1=(0.5, 0.75, 0.7), speed=100.0, memory=2.0, **parts) -> Run:
    """Three epochs of ten steps, a validation after each; logs every fifth step."""
    ends, steps = (9.0, 19.0, 29.0), tuple(float(s) for s in range(4, 30, 5))
    metrics = {
        "epoch": (steps, tuple(s // 10 for s in steps)),
        "train/loss": (steps, tuple(3 - s / 10 for s in steps)),
        "perf/images_per_s": (steps, (speed / 10, *(speed,) * 5)),
        "perf/elapsed_s": (steps, tuple((s + 1) * 100 / speed for s in steps)),
        "perf/memory_gib": (steps, (memory,) * 6),
        "val/top1": (ends, top1),
    }
    return Run(label, label, layers=layers, metrics=metrics | parts.pop("more", {}), **parts)


def titles(charts) -> list[str]:
    return [chart["title"] for chart in charts]


# --- charts


def test_a_chart_is_a_line_for_each_metric_that_moves():
    accuracy, loss, throughput = charts_of(run())
    line = {"name": "top-1", "line": 0, "x": [1, 2, 3], "y": [50, 75, 70]}
    assert accuracy["series"] == [line]
    assert (accuracy["x"], loss["x"]) == ("epoch", "step")
    assert loss["series"][0]["y"][0] == 2.6
    assert throughput["title"] == "Throughput"


def test_nothing_constant_is_drawn_and_neither_is_a_single_point():
    flat = {"train/lr": ((0.0, 9.0), (0.1, 0.1)), "perf/mfu": ((4.0,), (0.4,))}
    assert titles(charts_of(run(more=flat))) == ["Accuracy", "Loss", "Throughput"]
    assert titles(charts_of(run(top1=(0.5, 0.5, 0.5)))) == ["Loss", "Throughput"]


@pytest.mark.parametrize("gap", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_a_gap(gap: float):
    metrics = {"train/loss": ((0.0, 1.0, 2.0), (2.0, gap, 1.0))}
    [chart] = charts_of(Run("x", "x", metrics=metrics))
    assert chart["series"][0]["y"] == [2, None, 1]


def test_phases_are_shaded_where_there_are_several():
    spans = (Span("sparse", 0, 20), Span("dense tail", 20, 30))
    loss = charts_of(run(phases=spans))[1]
    assert [(b["from"], b["to"], b["shade"]) for b in loss["bands"]] == [(0, 20, 1), (20, 30, 2)]
    assert charts_of(run(phases=spans[:1]))[1]["bands"] == []


def test_a_line_keeps_its_colour_where_another_run_has_no_values():
    flips = {"sparsity/flip_rate": ((0.0, 9.0), (0.1, 0.2))}
    charts = charts_of_many([run("dense", DENSE), run("sparse", more=flips)])
    [flip] = [chart for chart in charts if chart["title"] == "Flip rate"]
    assert [(s["name"], s["line"], s["y"]) for s in flip["series"]] == [("sparse", 1, [10, 20])]


def test_accuracy_is_drawn_over_epochs_and_over_wall_clock():
    epochs, clock = charts_of_many([run("dense", DENSE), run("sparse", speed=200.0)])[:2]
    assert [s["x"] for s in epochs["series"]] == [[1, 2, 3]] * 2
    assert clock["x"] == "seconds"
    assert [s["x"] for s in clock["series"]] == [[10, 20, 30], [5, 10, 15]]


def test_a_map_has_a_row_for_each_layer_and_a_constant_one_is_not_drawn():
    energy = {
        "sparsity/kept_energy/network_a": ((0.0, 9.0), (0.5, 0.75)),
        "sparsity/kept_energy/network_b": ((0.0,), (0.6,)),
        "sparsity/flip_rate/network_a": ((0.0, 9.0), (0.0, 0.0)),
    }
    [drawn] = maps_of(run(more=energy))
    assert (drawn["rows"], drawn["steps"]) == (["a", "b"], [0, 9])
    assert drawn["values"] == [[0.5, 0.75], [0.6, None]]
    assert (drawn["low"], drawn["high"]) == (0.5, 0.75)


def test_a_map_names_layers_as_the_table_of_layers_does():
    layers = (LayerRow("blocks.0.mlp.fc1", (8, 8), "2:4 weight"),)
    energy = {"sparsity/kept_energy/network_blocks_0_mlp_fc1": ((0.0, 9.0), (0.5, 0.75))}
    [drawn] = maps_of(run(layers=layers, more=energy))
    assert drawn["rows"] == ["blocks.0.mlp.fc1"]


def test_a_map_of_a_long_run_has_at_most_300_columns():
    steps = tuple(float(s) for s in range(1000))
    energy = {"sparsity/kept_energy/a": (steps, tuple(s / 1000 for s in steps))}
    [drawn] = maps_of(run(more=energy))
    assert len(drawn["steps"]) == len(drawn["values"][0]) == 250


def test_thinning_keeps_a_spike_of_one_step_and_both_ends():
    points = [(float(i), 1.0) for i in range(100_000)]
    points[54_321] = (54_321.0, 9.0)
    kept = thin_out(points)
    assert len(kept) <= 8100
    assert (54_321.0, 9.0) in kept
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert kept == sorted(kept)


def test_thinning_leaves_a_short_line_alone():
    points = [(10.0 * i, float(i % 3)) for i in range(8000)]
    assert thin_out(points) == points


# --- measures


def test_validations_know_epoch_and_seconds():
    assert [(v.epoch, v.seconds, v.top1) for v in validations(run())] == [
        (1, 10, 50),
        (2, 20, 75),
        (3, 30, 70),
    ]
    top = best(run())
    assert top is not None
    assert top.epoch == 2


def test_a_run_that_went_on_within_an_epoch_counts_the_whole_ones():
    epoch = ((14.0, 19.0, 29.0), (1.0, 1.0, 2.0))
    metrics = {"epoch": epoch, "val/top1": ((19.0, 29.0), (0.1, 0.2))}
    assert [v.epoch for v in validations(Run("x", "x", metrics=metrics))] == [2, 3]


def test_the_time_to_an_accuracy_is_that_of_the_first_validation_with_it():
    assert seconds_to(run(), 60.0) == 20
    assert seconds_to(run(), 99.0) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(8.04, "8.04 s"), (600.0, "10 min"), (11_100.0, "3 h 05 min"), (7_199.0, "120 min")],
)
def test_durations_are_short(seconds: float, text: str):
    assert duration(seconds) == text


# --- several runs


def test_runs_stand_against_the_first_dense_one():
    assert baseline([run("sparse"), run("dense", DENSE)]) == 1
    assert baseline([run("a"), run("b")]) == 0


def test_the_table_says_how_good_how_fast_and_how_large():
    dense = run("dense", DENSE, facts=(("seed", "0"),))
    sparse = run("sparse", top1=(0.5, 0.76, 0.74), speed=120.0, memory=1.5)
    rows = {
        row.label: [(cell.text, cell.against, cell.better) for cell in row.cells]
        for row in table([dense, sparse])
    }
    assert rows["what is sparse"] == [("nothing: dense", "", None), ("2:4 weight", "", None)]
    assert rows["best top-1"] == [("75.00 %", "", None), ("76.00 %", "+1.00 points", True)]
    assert rows["last top-1"][1] == ("74.00 %", "+4.00 points", True)
    assert rows["best epoch"] == [("2", "", None), ("2", "", None)]
    assert rows["throughput"][1] == ("120 images/s", "1.20×", True)
    assert rows["peak memory"][1] == ("1.50 GiB", "75%", True)
    assert rows["wall-clock"][1] == ("25 s", "83%", True)
    assert rows["time to 75.00 %"] == [("20 s", "", None), ("16.7 s", "83%", True)]
    assert rows["seed"] == [("0", "", None), ("–", "", None)]
    assert "ended" not in rows


def test_a_sentence_answers_whether_it_is_as_good_and_faster():
    dense = run("dense", DENSE)
    sparse = run("sparse", top1=(0.5, 0.74, 0.74), speed=120.0, memory=1.5)
    assert verdicts([dense, sparse]) == [
        "sparse: 1.20× the images/s, 1.00 points lower best top-1, 75% of the memory "
        "(against dense)."
    ]
    assert verdicts([dense, run("again")])[0].startswith("again: 1.00× the images/s, the same best")


def test_a_run_whose_products_are_dense_is_not_called_faster_for_its_sparsity():
    masked = LayerRow("fc1", (4, 8), "2:4 weight", "masked: the model runs on a CPU", 0.5)
    native = LayerRow("fc2", (8, 4), "2:4 weight", "native", 0.5)
    dense, here = run("dense", DENSE), run("here", (masked, *DENSE), speed=120.0)
    assert verdicts([dense, here])[0].endswith(
        "(against dense). Its products run dense, so that sparsity makes nothing faster here."
    )
    assert verdicts([dense, run("there", (masked, native))])[0].endswith("(against dense).")


def test_what_differs_is_written_as_the_command_line_does():
    one, two = (run(name, config={"mvue": mvue}) for name, mvue in (("a", True), ("b", None)))
    assert differences([one, two]) == [("mvue", ("true", "null"))]


def test_only_what_differs_is_listed():
    config = {"lr": 0.1, "sparsity": {"weight": None}, "run_dir": "x"}
    one = run("a", config=config, facts=(("seed", "0"),))
    config = {"lr": 0.1, "sparsity": {"weight": {"decay": 2e-4}}, "run_dir": "y"}
    two = run("b", config=config, facts=(("hardware", "1 × NVIDIA H200"),))
    assert differences([one, two]) == [
        ("sparsity.weight.decay", ("–", "0.0002")),
        ("hardware", ("–", "1 × NVIDIA H200")),
    ]
