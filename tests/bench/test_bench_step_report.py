"""Training steps in words: the table, the lines, the file, the picture; ratios."""

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from sparsetrain.bench.bars import draw_bars
from sparsetrain.bench.rounds import TOTAL
from sparsetrain.bench.step_report import (
    LEGEND,
    PARTS,
    step_lines,
    step_panels,
    step_table,
    write_steps,
)
from sparsetrain.bench.step_rows import Result, Start, TrainRow, Vit
from sparsetrain.bench.timing import Times
from sparsetrain.bench.variants import DENSE, VARIANTS


def fake_row(name, milliseconds, engines=None):
    times: dict[str, Times] = {part: Times(250.0, 240.0, 260.0) for part in PARTS}
    median = 1000 * milliseconds
    times[TOTAL] = Times(median, median * 0.99, median * 1.01)
    start = Start(2**30, 6.9312, engines or {}, (), 41.4, int(name != "dense-eager"))
    return TrainRow(VARIANTS[name], times, 20 * 2**30, 1.2345, start, 5.5)


@pytest.fixture
def result():
    rows = (
        fake_row("dense-eager", 160.0),
        fake_row("dense", 120.0),
        fake_row("weights+attn", 100.0, {"native": 96}),
    )
    vit = Vit("vit_l", "vit_large_patch16_224", 128)
    return Result(vit, 1e12, 989e12, rows, {"all": "OutOfMemoryError: no room"}, 0)


def text_of(result):
    file = io.StringIO()
    Console(width=120, file=file).print(step_table(result))
    return file.getvalue()


def test_ratios_rates_and_utilisation_follow_from_the_times(result):
    sparse = result.rows[2]
    assert result.dense.variant.name == DENSE
    assert result.speed_up(sparse) == 1.2
    assert result.images_per_s(sparse) == 1280
    assert result.mfu(sparse) == pytest.approx(1280 * 1e12 / 989e12)
    assert replace(result, peak_flops=None).mfu(sparse) is None


def test_the_table_fits_120_columns_and_has_a_dash_for_what_is_not_known(result):
    text = text_of(result)
    assert "…" not in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 120
    eager, dense, sparse = text.splitlines()[-3:]
    assert eager.split()[:2] == ["dense-eager", "0.25"]
    assert dense.split()[4:9] == ["120.00", "2.0", "%", "1067", "1.000"]
    assert " ".join(sparse.split()) == (
        "weights+attn 0.25 0.25 0.25 100.00 2.0 % 1280 1.200 20.0 100 % 1.234 129.4 %"
    )
    unknown = replace(result.rows[1], joules=None)
    text = text_of(replace(result, rows=(unknown,), peak_flops=None))
    assert text.splitlines()[-1].split()[-2:] == ["–", "–"]
    assert max(map(len, LEGEND.splitlines())) <= 100


def test_words_tell_what_was_skipped_what_runs_where_and_what_is_not_to_be_trusted(result):
    reasons = ("blocks.*.mlp.fc1 (24): masked: no kernels",)
    last = replace(result.rows[2], start=replace(result.rows[2].start, reasons=reasons))
    lines = list(step_lines(replace(result, rows=(*result.rows[:2], last), recompiled=2)))
    assert lines[0] == "not timed: all: OutOfMemoryError: no room"
    assert lines[1].startswith("not to be trusted: torch.compile made 2 graphs")
    assert lines[2] == "dense-eager: loss 6.931 to 5.500; first steps 41 s"
    assert lines[4] == (
        "weights+attn: sparse layers: 96 native; loss 6.931 to 5.500; first steps 41 s,"
        " 1 compiled graphs"
    )
    assert lines[5] == "  blocks.*.mlp.fc1 (24): masked: no kernels"


def test_the_file_holds_every_number(result, tmp_path):
    path = tmp_path / "step.json"
    write_steps(path, {"commit": "new"}, {"rounds": 7, "steps": 4}, [result])
    content = json.loads(path.read_text("utf-8"))
    assert (content["about"], content["rounds"], content["steps"]) == ({"commit": "new"}, 7, 4)
    (model,) = content["models"]
    assert (model["timm"], model["batch"], model["flops"]) == ("vit_large_patch16_224", 128, 1e12)
    assert model["skipped"] == {"all": "OutOfMemoryError: no room"}
    sparse = model["variants"][2]
    assert (sparse["variant"], sparse["speed_up"]) == ("weights+attn", 1.2)
    assert sparse["times"][TOTAL] == {"median": 1e5, "low": 0.99e5, "high": 1.01e5}
    assert sparse["start"]["engines"] == {"native": 96}
    assert sparse["images_per_s"] == 1280


def test_the_picture_is_a_png_with_a_panel_for_each_model(result, tmp_path):
    path = tmp_path / "pictures" / "step.png"
    panels = step_panels([result, result])
    assert panels[0].title == "vit_l, batch 128"
    assert panels[0].bars[2].parts == dict.fromkeys(PARTS, 0.25)
    assert (panels[0].bars[2].total, panels[0].bars[2].speed_up) == (100.0, 1.2)
    draw_bars(path, "Training step", "a step", panels)
    assert path.read_bytes().startswith(b"\x89PNG")
