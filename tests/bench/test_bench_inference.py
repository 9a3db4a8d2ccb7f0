"""`bench step mode=inference`: on the CPU with a clock that is made up, and on a GPU."""

import io
import json
import math
from dataclasses import replace

import pytest
import timm
import torch
from rich.console import Console

from sparsetrain.bench import inference
from sparsetrain.bench.dense_fp8 import StaticFp8Linear, make_static_fp8
from sparsetrain.bench.dense_int8 import StaticInt8Linear
from sparsetrain.bench.gauges import Gauges
from sparsetrain.bench.inference import bench_inference
from sparsetrain.bench.inference_report import LEGEND, inference_lines
from sparsetrain.bench.rounds import TOTAL, run_parts
from sparsetrain.bench.step_report import step_table
from sparsetrain.bench.step_rows import INFERENCE_MODELS, Vit
from sparsetrain.bench.variants import INFERENCE_APART, INFERENCE_VARIANTS, Setting
from sparsetrain.cli import bench_step
from sparsetrain.cli.bench import bench
from sparsetrain.inference import PackedMlp, packed_linears

CPU = torch.device("cpu")
TINY = Vit("tiny", "samvit_huge_patch16", batch=2, pixels=64, classes=0)


def make():
    """SAM's encoder with windows, small."""
    small = {"embed_dim": 32, "depth": 2, "num_heads": 2, "global_attn_indexes": [1]}
    return timm.create_model(TINY.timm, img_size=64, window_size=3, num_classes=0, **small)


def clock(parts):
    """Does a forward; a packed one takes 2 ms, another 4."""
    run_parts(parts)
    packed = packed_linears(parts["forward"].__self__.forward)
    names: list[str] = [*parts, TOTAL]
    return dict.fromkeys(names, 2000.0 if packed else 4000.0)


GAUGES = Gauges(clock, lambda: 0, lambda run: 1000, lambda run, count: 2.0 * count * TINY.batch)


def bench_tiny(*names):
    known = {**INFERENCE_VARIANTS, **INFERENCE_APART}
    variants = [known[name] for name in (names or INFERENCE_VARIANTS)]
    setting = Setting(2, "default", CPU)
    return bench_inference(TINY, make, variants, setting, GAUGES, lambda words: None)


@pytest.fixture
def uncompiled(monkeypatch):
    monkeypatch.setattr(inference, "compiled", lambda model, variant, mode: model)


def test_every_variant_runs_and_is_near_the_weights_it_was_made_of(uncompiled):
    result = bench_tiny()
    assert [row.variant.name for row in result.rows] == list(INFERENCE_VARIANTS)
    assert (result.skipped, result.recompiled) == ({}, 0)
    errors = {row.variant.name: row.error for row in result.rows}
    assert errors["dense"] == 0  # the same operations, on a CPU
    assert errors["bf16-24"] < 0.01  # GELU at the end of fc1 takes sums that were not rounded
    for name in ("dense-fp8", "dense-fp8-tensor", "fp8-24"):
        assert 0.02 < errors[name] < 0.2
    for name in ("dense-int8", "int8-24"):
        assert 0.005 < errors[name] < 0.05
    engines = {row.variant.name: row.engines for row in result.rows}
    assert engines["fp8-24"] == engines["int8-24"] == engines["bf16-24"] == {"native": 8}
    assert engines["dense-fp8"] == {}
    assert [result.speed_up(row) for row in result.rows] == [1, 2, 1, 1, 1, 2, 2]
    assert result.flops > 0


@pytest.mark.parametrize(("name", "most"), [("fp8-24", 0.1), ("int8-24", 0.0)])
def test_apart_the_children_of_mlps_give_what_one_function_gives(name, most):
    found, one, other = {}, make().eval(), make().eval()
    other.load_state_dict(one.state_dict())
    images = torch.randn(2, 3, 64, 64)
    variants = {**INFERENCE_VARIANTS, **INFERENCE_APART}
    for model, variant in ((one, name), (other, f"{name}-apart")):
        inference.prune_for_inference(model)
        engines = inference.prepare_inference(model, variants[variant])
        assert engines == {"native": 8}
        with torch.inference_mode():
            found[variant] = model(images)
    together, apart = found.values()
    assert (together - apart).norm() <= most * apart.norm()  # in fp8 other scales
    assert sum(isinstance(module, PackedMlp) for module in one.modules()) == 2
    assert not any(isinstance(module, PackedMlp) for module in other.modules())


def test_the_table_fits_120_columns_and_the_lines_tell_the_error(uncompiled):
    result = bench_tiny("dense", "fp8-24")
    file = io.StringIO()
    Console(width=120, file=file).print(step_table(result, (), "forward"))
    text = file.getvalue()
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 120
    assert text.splitlines()[-1].split()[:6] == ["fp8-24", "2.00", "0.0", "%", "1000", "2.000"]
    assert max(map(len, LEGEND.splitlines())) <= 100
    lines = list(inference_lines(result))
    assert lines[0].startswith("dense: error 0.0000; weights 0.00 GiB; first forwards")
    assert lines[1].startswith("fp8-24: packed layers: 8 native; error 0.")


def test_outputs_that_are_not_finite_take_the_variant_out(uncompiled, monkeypatch):
    def spoil(model, include, sharing):
        make_static_fp8(model, include, sharing)
        torch.nn.init.constant_(model.blocks[0].norm1.bias, math.inf)

    monkeypatch.setattr(inference, "make_static_fp8", spoil)
    result = bench_tiny("dense", "dense-fp8", "fp8-24")
    assert [row.variant.name for row in result.rows] == ["dense", "fp8-24"]
    assert result.skipped == {"dense-fp8": "FloatingPointError: its outputs are not finite"}
    with pytest.raises(ValueError, match="tiny: there is nothing to compare with, 'dense'"):
        bench_tiny("fp8-24")


def test_what_pytorch_refuses_is_told_and_the_rest_is_timed(uncompiled, monkeypatch):
    def refuse(*given):
        raise RuntimeError("Only bf16 high precision output types are supported\nmore")

    monkeypatch.setattr(inference, "make_static_fp8", refuse)
    skipped = bench_tiny("dense", "dense-fp8").skipped
    assert skipped["dense-fp8"] == (
        "RuntimeError: Only bf16 high precision output types are supported"
    )


@pytest.mark.parametrize("sharing", ["row", "tensor"])
def test_a_dense_layer_in_fp8_is_near_and_adds_its_bias(sharing):
    torch.manual_seed(0)
    linear = torch.nn.Linear(64, 48).bfloat16()
    x = torch.randn(2, 20, 64, dtype=torch.bfloat16)
    with torch.no_grad():
        linear.bias.fill_(3)
        y, found = linear(x).float() - 3, StaticFp8Linear(linear, sharing)(x).float() - 3
    assert found.shape == (2, 20, 48)
    assert 0.01 < (found - y).norm() / y.norm() < 0.06


def test_a_dense_layer_in_int8_is_near_and_a_row_of_zeros_gives_its_bias():
    torch.manual_seed(0)
    linear = torch.nn.Linear(64, 48).bfloat16()
    x = torch.randn(2, 20, 64, dtype=torch.bfloat16)
    x[0, 3] = 0
    with torch.no_grad():
        y, found = linear(x), StaticInt8Linear(linear)(x)
    assert (found.shape, found.dtype) == (y.shape, y.dtype)
    assert torch.equal(found[0, 3], linear.bias)
    assert 0.002 < (found.float() - y.float()).norm() / y.float().norm() < 0.02


def test_the_command_shows_a_table_and_writes_json_and_picture(
    uncompiled, monkeypatch, tmp_path, capsys
):
    kind = bench_step.KINDS["inference"]
    monkeypatch.setitem(bench_step.KINDS, "inference", replace(kind, models={"tiny": TINY}))
    monkeypatch.setattr(bench_step, "cuda_device", lambda: CPU)
    monkeypatch.setattr(bench_step, "library_words", lambda: "a library")
    monkeypatch.setattr(
        bench_step, "environment", lambda *words: {"command": words[0], "hardware": "CPU, none"}
    )
    monkeypatch.setattr(bench_step, "cuda_gauges", lambda *given: replace(GAUGES, joules="none"))
    monkeypatch.setattr(bench_step, "build_network", lambda *arguments: make())
    path, picture = tmp_path / "a.json", tmp_path / "a.png"
    words = ["mode=inference", "variants=fp8-24", "rounds=2", f"json={path}"]
    bench(["step", *words, f"picture={picture}"])
    shown = capsys.readouterr().out
    for part in ("tiny (samvit_huge_patch16), batch 2, 64 × 64", "forward", "2.000", "a.png"):
        assert part in shown
    content = json.loads(path.read_text("utf-8"))
    assert (content["mode"], content["rounds"], content["compile"]) == ("inference", 2, "default")
    (model,) = content["models"]
    assert [row["variant"] for row in model["variants"]] == ["dense", "fp8-24"]
    assert model["variants"][1]["engines"] == {"native": 8}
    assert picture.stat().st_size > 1000


def test_by_default_four_models_run_in_every_variant():
    options = bench_step.parse(["mode=inference"])
    assert [vit.name for vit in options.vits] == ["vit_b", "vit_l", "vit_h", "sam_h"]
    assert [variant.name for variant in options.variants] == list(INFERENCE_VARIANTS)
    assert options.rounds == 20
    named = bench_step.parse(["mode=inference", "variants=fp8-24,fp8-24-apart"])
    assert [variant.name for variant in named.variants] == ["dense", "fp8-24", "fp8-24-apart"]
    assert INFERENCE_MODELS["sam_h"].pixels == 1024


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["mode=infer"], "mode='infer' is unknown: did you mean inference"),
        (["mode=inference", "variants=fp8"], "variants='fp8' is unknown: "),
        (["models=sam_h"], "models='sam_h' is unknown: "),
    ],
)
def test_a_wrong_word_is_named_with_what_would_be_right(words, complaint):
    with pytest.raises(ValueError, match=complaint):
        bench_step.parse(words)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_each_variant_is_one_graph(monkeypatch):
    monkeypatch.setattr(
        inference,
        "compiled",
        lambda model, variant, mode: torch.compile(
            model, fullgraph=True, dynamic=False, backend="eager"
        ),
    )
    monkeypatch.setitem(globals(), "packed_linears", lambda model: False)
    assert [row.graphs for row in bench_tiny().rows] == [1] * len(INFERENCE_VARIANTS)


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning")
def test_the_command_times_forwards_on_a_gpu(monkeypatch, tmp_path):
    vit = Vit("tiny", "vit_tiny_patch16_224", batch=8, pixels=64, classes=10)
    kind = bench_step.KINDS["inference"]
    monkeypatch.setitem(bench_step.KINDS, "inference", replace(kind, models={"tiny": vit}))
    monkeypatch.setattr(
        bench_step,
        "build_network",
        lambda name, pixels, classes: timm.create_model(
            name, img_size=pixels, depth=2, num_classes=classes
        ),
    )
    monkeypatch.setattr(inference, "ENERGY_SECONDS", 0.2)
    path = tmp_path / "inference.json"
    bench(["step", "mode=inference", "rounds=2", f"json={path}"])
    (model,) = json.loads(path.read_text("utf-8"))["models"]
    assert (model["skipped"], model["recompiled"]) == ({}, 0)
    assert [row["variant"] for row in model["variants"]] == list(INFERENCE_VARIANTS)
    for row in model["variants"]:
        assert row["error"] < 0.2
        assert row["peak"] > row["held"] > 0
        assert row["graphs"] == 1
