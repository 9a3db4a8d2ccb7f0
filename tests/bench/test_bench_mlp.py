"""scripts/bench/mlp.py end to end: on the CPU with a clock that is made up, and on a GPU."""

import io
import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from scripts.bench import mlp, mlp_measure
from scripts.bench.mlp_measure import bench_shape
from scripts.bench.mlp_peers import PEERS
from scripts.bench.mlp_report import (
    LEGEND,
    PARTS,
    mlp_lines,
    mlp_panels,
    mlp_table,
    write_mlps,
)
from scripts.bench.mlp_step import Block, MlpStep
from sparsetrain.bench.gauges import Gauges
from sparsetrain.bench.products import Shape
from sparsetrain.bench.rounds import TOTAL, run_parts
from sparsetrain.bench.variants import VARIANTS, Setting
from sparsetrain.nn import phased_layers
from sparsetrain.products import Engine

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
SMALL = Shape(tokens=128, features=32, hidden=64)
NAMES = ("dense-eager", "dense", "dense-relu2", "weights", "activations", "all")


def clock(parts):
    """Does a step; a sparse one takes 3 ms, others 4."""
    run_parts(parts)
    sparse = phased_layers(parts["forward"].__self__.block)
    return {**dict.fromkeys(parts, 1000.0), TOTAL: 3000.0 if sparse else 4000.0}


def peak(run):
    run()
    return 2**29


GAUGES = Gauges(clock, lambda: 0, peak, lambda run, count: 1.5 * count)


def leave_uncompiled(monkeypatch):
    monkeypatch.setattr(mlp_measure, "compiled", lambda model, variant, mode: model)
    monkeypatch.setattr(torch, "compile", lambda model, mode=None: model)


@pytest.fixture
def uncompiled(monkeypatch):
    leave_uncompiled(monkeypatch)


def bench_small(*names, peers=(), engine: Engine = "native"):
    variants = [VARIANTS[name] for name in (names or NAMES)]
    setting = Setting(2, "default", CPU, engine)
    return bench_shape(SMALL, variants, peers, setting, GAUGES, lambda words: None)


@pytest.fixture(scope="module")
def result():
    with pytest.MonkeyPatch.context() as monkeypatch:
        leave_uncompiled(monkeypatch)
        return bench_small()


def text_of(result):
    file = io.StringIO()
    Console(width=120, file=file).print(mlp_table(result))
    return file.getvalue()


@pytest.mark.slow
def test_every_variant_gives_what_masked_products_give(result):
    assert [row.name for row in result.rows] == list(NAMES)
    assert result.skipped == {}
    for row in result.rows:
        assert 0 <= row.error <= 0.05, row.name
    engines = {row.name: row.engines for row in result.rows}
    assert engines["weights"] == {"native": 2}
    assert engines["activations"] == {"native": 1}
    assert engines["all"] == {"native": 3}
    assert engines["dense"] == {}


def test_speed_ups_and_rates_follow_from_the_times(result):
    weights = result.rows[3]
    assert set(weights.times) == {*PARTS, TOTAL}
    assert set(result.rows[1].times) == {"forward", "backward", TOTAL}
    assert result.speed_up(weights) == pytest.approx(4 / 3)
    assert result.rate(weights) == pytest.approx(6 * 2 * 128 * 32 * 64 / 3e-3 / 1e12)
    flops = replace(result, peak_flops=6 * 2 * 128 * 32 * 64 / 1e-3)
    assert flops.mfu(weights) == pytest.approx(1 / 3)
    assert result.mfu(weights) is None, "of a CPU it is not known"
    assert weights.joules == 1.5


def test_a_step_gives_new_gradients_of_the_input_and_of_every_parameter():
    torch.manual_seed(0)
    block = Block(8, 16)
    x = torch.randn(12, 8, dtype=torch.bfloat16, requires_grad=True)
    step = MlpStep(block, block, x, torch.randn_like(x))
    first = step.results()
    step.run()
    second = step.results()
    assert list(first) == [
        "y",
        "x",
        "mlp.fc1.weight",
        "mlp.fc1.bias",
        "mlp.fc2.weight",
        "mlp.fc2.bias",
    ]
    for name, value in first.items():
        assert value.count_nonzero() > 0
        assert torch.equal(second[name], value), f"{name} is not summed up over steps"
    assert x.grad is None


def test_a_wrong_result_is_said_and_not_timed(uncompiled, monkeypatch):
    def spoil(model, variant, mode):
        return (lambda x: 1.1 * model(x)) if variant.name == "weights" else model

    monkeypatch.setattr(mlp_measure, "compiled", spoil)
    result = bench_small("dense", "weights")
    assert [row.name for row in result.rows] == ["dense"]
    assert result.skipped["weights"].startswith("wrong result: 0.1")


def test_a_result_with_nan_is_wrong(uncompiled, monkeypatch):
    monkeypatch.setattr(
        mlp_measure,
        "compiled",
        lambda model, variant, mode: lambda x: model(x) * (torch.nan if model.mlp.act else 1),
    )
    with pytest.raises(ValueError, match="nothing to compare with, 'dense': wrong result: nan"):
        bench_small("dense")


def test_the_table_fits_120_columns(result):
    rows = [replace(row, name=name) for row, name in zip(result.rows, PEERS, strict=False)]
    large = replace(
        result, rows=(*result.rows, *rows), shape=Shape(50432, 1280, 14336), peak_flops=1e9
    )
    text = text_of(large)
    assert "…" not in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 120
    assert "128 tokens, 32 features, 64 hidden" in text_of(result)
    unknown = replace(result.rows[1], joules=None)
    assert text_of(replace(result, rows=(unknown,))).split()[-2] == "–"
    assert text_of(result).splitlines()[-1].split()[:7] == [
        "all", "compiled", "1.00", "1.00", "3.00", "0.0", "%",
    ]  # fmt: skip
    assert max(map(len, LEGEND.splitlines())) <= 100


def test_the_file_holds_every_number(result, tmp_path):
    path = tmp_path / "mlp.json"
    write_mlps(path, {"commit": "new"}, {"rounds": 3}, [replace(result, skipped={"x": "no"})])
    content = json.loads(path.read_text("utf-8"))
    assert (content["about"], content["rounds"]) == ({"commit": "new"}, 3)
    (shape,) = content["shapes"]
    assert shape["shape"] == {"tokens": 128, "features": 32, "hidden": 64}
    assert shape["skipped"] == {"x": "no"}
    assert [row["name"] for row in shape["rows"]] == list(NAMES)
    assert shape["rows"][3]["speed_up"] == pytest.approx(4 / 3)
    assert shape["rows"][3]["times"][TOTAL]["median"] == 3000.0
    assert shape["rows"][3]["peak"] == 2**29
    assert (shape["rows"][3]["joules"], shape["rows"][3]["mfu"]) == (1.5, None)


def test_words_tell_engines_and_what_is_not_to_be_trusted(result):
    lines = list(mlp_lines(replace(result, recompiled=1)))
    assert lines[0].startswith("not to be trusted: torch.compile made 1 graphs")
    assert lines[1:] == [
        "weights: sparse layers: 2 native",
        "activations: sparse layers: 1 native",
        "all: sparse layers: 3 native",
    ]


def test_a_masked_layer_is_told_with_its_reason(uncompiled):
    lines = list(mlp_lines(bench_small("dense", "all", engine="masked")))
    assert "  mlp.fc1 (1): masked: with its MLP" in lines
    assert "  mlp (1): masked: asked for" in lines


def test_bars_have_the_parts_there_are(result):
    (panel,) = mlp_panels([result])
    assert panel.title == "128x32x64"
    assert panel.bars[1].parts == {"forward": 1.0, "backward": 1.0}
    assert panel.bars[5].parts == {"forward": 1.0, "backward": 1.0}
    assert panel.bars[5].total == 3.0


@pytest.mark.slow
def test_the_command_shows_tables_and_writes_json_and_picture(
    uncompiled, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(mlp, "cuda_device", lambda: CPU)
    monkeypatch.setattr(mlp, "library_words", lambda: "a library")
    monkeypatch.setattr(
        mlp, "environment", lambda *words: {"command": words[0], "hardware": "CPU, none"}
    )
    monkeypatch.setattr(mlp, "cuda_gauges", lambda *arguments: GAUGES)
    path, picture = tmp_path / "a.json", tmp_path / "a.png"
    words = ["shapes=64x32x64,32x16x32", "variants=all", "rounds=2", "peers=false"]
    mlp.main([*words, f"json={path}", f"picture={picture}"])
    shown = capsys.readouterr().out
    for part in ("64 tokens, 32 features", "32 tokens, 16 features", "1.333", "a.json", "a.png"):
        assert part in shown
    content = json.loads(path.read_text("utf-8"))
    assert content["about"]["command"].startswith("python -m scripts.bench.mlp shapes=64x32x64")
    assert [shape["shape"]["tokens"] for shape in content["shapes"]] == [64, 32]
    assert picture.stat().st_size > 1000


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning")
# PyTorch's own, of the first product of a backward's thread.
@pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS:UserWarning")
def test_the_command_times_every_variant_on_a_gpu(tmp_path):
    path = tmp_path / "mlp.json"
    mlp.main(["shapes=1024x256x512", "rounds=2", f"json={path}"])
    content = json.loads(path.read_text("utf-8"))
    (shape,) = content["shapes"]
    rows = {row["name"]: row for row in shape["rows"]}
    assert set(NAMES) <= set(rows)
    assert set(PEERS) <= {*rows, *shape["skipped"]}
    assert shape["recompiled"] == 0
    assert all(row["peak"] > 0 for row in rows.values())
    metered = content["about"]["energy"] == "NVML's counter"
    assert all((row["joules"] is not None) == metered for row in rows.values())
