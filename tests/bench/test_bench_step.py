"""`bench step` end to end: on the CPU with a clock that is made up, and on a GPU."""

import json
import math
from dataclasses import replace
from typing import Any, Literal

import pytest
import timm
import torch

import sparsetrain as st
from sparsetrain.bench import step
from sparsetrain.bench.gauges import Gauges
from sparsetrain.bench.rounds import TOTAL, run_parts
from sparsetrain.bench.step import bench_model
from sparsetrain.bench.step_report import (
    PARTS,
    step_lines,
)
from sparsetrain.bench.step_rows import Vit
from sparsetrain.bench.variants import VARIANTS, Setting, compiled
from sparsetrain.cli import bench_step
from sparsetrain.cli.bench import bench
from sparsetrain.nn import phased_layers
from sparsetrain.products import Engine

CPU = torch.device("cpu")
TINY = Vit("tiny", "vit_tiny_patch16_224", batch=4, pixels=16, classes=10)


def make():
    return timm.create_model(
        TINY.timm, img_size=16, patch_size=8, depth=2, embed_dim=16, num_heads=2, num_classes=10
    )


def clock(parts):
    """Does a step; a sparse one takes 3 ms, a dense one 4."""
    run_parts(parts)
    sparse = phased_layers(parts["forward"].__self__.model)
    return {**dict.fromkeys(parts, 1000.0), TOTAL: 3000.0 if sparse else 4000.0}


def peak(run):
    run()
    return 1000


GAUGES = Gauges(clock, lambda: 0, peak, lambda run, count: 2.0 * count * TINY.batch)


def bench_tiny(*names, gauges=GAUGES, engine: Engine | Literal["auto"] = "masked"):
    variants = [VARIANTS[name] for name in (names or VARIANTS)]
    setting = Setting(2, "default", CPU, engine)
    return bench_model(TINY, make, variants, setting, gauges, lambda words: None)


@pytest.fixture
def uncompiled(monkeypatch):
    monkeypatch.setattr(step, "compiled", lambda model, variant, mode: model)


@pytest.mark.slow
def test_every_variant_trains(uncompiled):
    names = [name for name in VARIANTS if name != "fp8"]
    result = bench_tiny(*names)
    assert [row.variant.name for row in result.rows] == names
    assert result.skipped == {}
    for row in result.rows:
        assert row.last_loss < row.start.loss, "the batch is always the same"
        assert set(row.times) == {*PARTS, TOTAL}
        assert (row.peak, row.joules) == (1000, 2.0)
    engines = {row.variant.name: row.start.engines for row in result.rows}
    assert engines["weights"] == {"masked": 4}
    assert engines["weights+attn"] == {"masked": 8}
    assert engines["activations"] == {"masked": 2}
    assert engines["all+attn"] == {"masked": 10}
    assert engines["dense-relu2"] == {}


def test_fp8_is_skipped_with_its_reason_where_nothing_multiplies_it(uncompiled):
    result = bench_tiny("dense", "dense-fp8", "fp8")
    assert [row.variant.name for row in result.rows] == ["dense", "dense-fp8"]
    assert result.skipped["fp8"].startswith("ValueError: engine='masked': blocks.0.")


@pytest.mark.slow
def test_fp8_trains_natively(uncompiled):
    (_, row) = bench_tiny("dense", "fp8", engine="native").rows
    assert row.last_loss < row.start.loss
    assert row.start.engines == {"native": 10}


def test_a_layer_that_is_not_native_is_told_with_its_reason(uncompiled):
    lines = list(step_lines(bench_tiny("dense", "weights")))
    assert "  blocks.*.mlp.fc1 (2): masked: asked for" in lines
    lines = list(step_lines(bench_tiny("dense", "weights", engine="native")))
    assert not any("asked for" in line for line in lines)


def test_auto_tells_what_each_product_gains(uncompiled, monkeypatch):
    # As on a GPU, where the number of tokens decides.
    found: list[Any] = []
    original = st.sparsify

    def sparsify(model, sparsity, *, engine, tokens):
        found.append(tokens)
        report = original(model, sparsity, engine="native")
        rows = [replace(row, engine="native: forward 1.50×, expected") for row in report.converted]
        return replace(report, converted=tuple(rows))

    monkeypatch.setattr(st, "sparsify", sparsify)
    lines = list(step_lines(bench_tiny("dense", "weights", engine="auto")))
    assert "  blocks.*.mlp.fc1 (2): native: forward 1.50×, expected" in lines
    assert found[0]["blocks.0.mlp.fc1"] == found[0]["blocks.1.attn.qkv"] > 1


def test_a_loss_that_is_not_finite_takes_the_variant_out(uncompiled, monkeypatch):
    prepare = step.prepare

    def spoil(model, variant, *rest):
        if variant.name == "weights":
            torch.nn.init.constant_(model.head.bias, math.inf)
        return prepare(model, variant, *rest)

    monkeypatch.setattr(step, "prepare", spoil)
    result = bench_tiny("dense", "weights", "all")
    assert [row.variant.name for row in result.rows] == ["dense", "all"]
    assert result.skipped["weights"].startswith("FloatingPointError: the loss of its first steps")


def test_the_dense_model_is_timed_while_it_is_the_only_one_too(uncompiled, monkeypatch):
    made, prepare = [], step.prepare

    def count(model, variant, *rest):
        made.append(variant.name)
        return prepare(model, variant, *rest)

    def slower_in_company(parts):
        times = clock(parts)
        return {**times, TOTAL: times[TOTAL] * (1.0 if made == ["dense"] else 1.25)}

    monkeypatch.setattr(step, "prepare", count)
    result = bench_tiny(
        "dense-eager", "dense", "weights", gauges=replace(GAUGES, clock=slower_in_company)
    )
    assert [row.variant.name for row in result.rows] == ["dense-eager", "dense", "weights"]
    assert result.alone is not None
    assert (result.alone.median, result.dense.times[TOTAL].median) == (4000.0, 5000.0)
    assert list(step_lines(result))[-1] == (
        "dense before another model was made: 4.00 ms a step; over that dense-eager 0.800×,"
        " weights 1.067×"
    )


def test_without_dense_there_is_nothing_to_compare_with(uncompiled):
    with pytest.raises(ValueError, match="tiny: there is nothing to compare with, 'dense'"):
        bench_tiny("weights")


def test_the_variants_start_from_the_same_weights_and_see_the_same_batch(uncompiled):
    result = bench_tiny("dense-eager", "dense")
    assert result.rows[0].start.loss == result.rows[1].start.loss
    assert result.flops > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_each_variant_is_one_graph_and_none_is_compiled_while_the_clock_runs(monkeypatch):
    monkeypatch.setattr(
        step,
        "compiled",
        lambda model, variant, mode: torch.compile(
            model, fullgraph=True, dynamic=False, backend="eager"
        ),
    )
    result = bench_tiny("dense", "dense-relu2", "weights", "all+attn")
    assert [row.start.graphs for row in result.rows] == [1, 1, 1, 1]
    assert result.recompiled == 0


def test_the_eager_variant_is_not_compiled():
    model = torch.nn.Linear(4, 4)
    assert compiled(model, VARIANTS["dense-eager"]) is model
    assert compiled(model, VARIANTS["dense"]) is not model


def test_the_command_shows_a_table_for_each_model_and_writes_json_and_picture(
    uncompiled, monkeypatch, tmp_path, capsys
):
    train = bench_step.KINDS["train"]
    models = {"tiny": TINY, "small": replace(TINY, name="small")}
    monkeypatch.setitem(bench_step.KINDS, "train", replace(train, models=models))
    monkeypatch.setattr(bench_step, "cuda_device", lambda: CPU)
    monkeypatch.setattr(bench_step, "library_words", lambda: "a library")
    monkeypatch.setattr(
        bench_step, "environment", lambda *words: {"command": words[0], "hardware": "CPU, none"}
    )
    gauges = replace(GAUGES, joules="no counter")
    monkeypatch.setattr(bench_step, "cuda_gauges", lambda *arguments: gauges)
    monkeypatch.setattr(bench_step, "build_network", lambda *arguments: make())
    path, picture = tmp_path / "a.json", tmp_path / "a.png"
    words = ["variants=weights,all", "batch=2", "rounds=2", f"json={path}", f"picture={picture}"]
    bench(["step", *words])
    shown = capsys.readouterr().out
    for part in ("tiny (vit_tiny_patch16_224), batch 2", "small (", "1.333", "no counter", "a.png"):
        assert part in shown
    content = json.loads(path.read_text("utf-8"))
    assert content["about"]["command"].startswith("python -m sparsetrain bench step variants=")
    assert [model["name"] for model in content["models"]] == ["tiny", "small"]
    assert content["models"][1]["variants"][1]["joules"] is None
    assert (content["rounds"], content["compile"]) == (2, "default")
    assert picture.stat().st_size > 1000


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning")
def test_the_command_times_whole_steps_on_a_gpu(monkeypatch, tmp_path):
    vit = Vit("tiny", "vit_tiny_patch16_224", batch=8, pixels=64, classes=10)
    train = bench_step.KINDS["train"]
    monkeypatch.setitem(bench_step.KINDS, "train", replace(train, models={"tiny": vit}))
    monkeypatch.setattr(
        bench_step,
        "build_network",
        lambda name, pixels, classes: timm.create_model(
            name, img_size=pixels, depth=2, num_classes=classes
        ),
    )
    monkeypatch.setattr(step, "ENERGY_SECONDS", 0.2)
    path = tmp_path / "step.json"
    bench(["step", "rounds=2", f"json={path}"])
    (model,) = json.loads(path.read_text("utf-8"))["models"]
    assert (model["skipped"], model["recompiled"]) == ({}, 0)
    assert [row["variant"] for row in model["variants"]] == list(VARIANTS)
    for row in model["variants"]:
        assert row["last_loss"] < row["start"]["loss"]
        assert row["peak"] > row["start"]["held"] > 0
        assert row["start"]["graphs"] == (row["variant"] != "dense-eager")
