"""The run report: what is on the page, what its charts draw, what its pictures show."""

from __future__ import annotations

import base64
import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image

from sparsetrain.lightning.report import (
    Curve,
    LayerRow,
    MaskPair,
    RunReport,
    Series,
    Span,
    read_metrics,
    render_report,
    write_report,
)
from sparsetrain.lightning.report import page as page_module
from sparsetrain.lightning.report.axis import number, rounded_axis, tick_labels, tight_axis
from sparsetrain.lightning.report.chart import break_at_gaps, chart, spread_labels, thin_out
from sparsetrain.lightning.report.masks import DROPPED, KEPT, NEW, STAYED, change_codes, codes_png

VOID = {"meta", "img"}
HOSTILE = "</title><script>alert('x')</script>&\""


class Outline(HTMLParser):
    """Checks that every tag is closed in order, and collects tags and addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for key, value in attrs if key in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def outline(page: str) -> Outline:
    parser = Outline()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


def series(name: str, *values: float) -> Series:
    return Series(name, tuple(float(i) for i in range(len(values))), values)


def curve(*lines: Series, spans: tuple[Span, ...] = ()) -> Curve:
    return Curve("Loss", "nats", lines, spans)


def paths(html: str) -> list[str]:
    return re.findall(r' d="([^"]+)"', html)


def rows_of_colours(png: bytes) -> list[list[tuple[int, ...] | None]]:
    """The pixels row by row; None where transparent."""
    image = Image.open(io.BytesIO(png)).convert("RGBA")
    data = image.tobytes()
    pixels = [tuple(data[i : i + 3]) if data[i + 3] else None for i in range(0, len(data), 4)]
    return [pixels[i : i + image.width] for i in range(0, len(pixels), image.width)]


def full_report(name: str = "name") -> RunReport:
    mask = torch.tensor([[True, False], [False, True]])
    return RunReport(
        title=name,
        summary=((name, name),),
        notes=(name,),
        curves=(Curve(name, name, (series(name, 1.0, 2.0),), (Span(name, 0, 1),)),),
        layers=(
            LayerRow(name, (4, 8), name, name, 0.5, 0.823, 0.0012),
            LayerRow(name, (4, 8), reason=name),
        ),
        masks=(MaskPair(name, mask, ~mask),),
        config_yaml=f"a: {name}",
    )


# --- the page


def test_page_is_well_formed_and_loads_nothing():
    parsed = outline(render_report(full_report()))
    assert "svg" in parsed.tags
    assert "table" in parsed.tags
    assert not parsed.tags & {"script", "link", "iframe"}
    assert parsed.addresses
    assert all(a.startswith("data:image/png;base64,") for a in parsed.addresses)


def test_every_name_is_escaped():
    page = render_report(full_report(HOSTILE))
    assert "script" not in outline(page).tags
    assert "<script" not in page
    escaped = "&lt;/title&gt;&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;&amp;&quot;"
    plain = render_report(full_report("plainname"))
    assert page.count(escaped) == plain.count("plainname")


def test_names_of_many_series_are_escaped():
    html = chart(curve(*(series(HOSTILE, 1.0, 2.0) for _ in range(9))))
    assert "script" not in outline(html).tags


def test_an_empty_report_has_a_title_and_no_empty_sections():
    page = render_report(RunReport(title="bare"))
    assert "<h1>bare</h1>" in page
    assert "<h2>" not in page


def test_the_same_report_gives_the_same_page():
    assert render_report(full_report()) == render_report(full_report())


def test_writing_replaces_the_old_page_and_leaves_no_other_file(tmp_path: Path):
    path = tmp_path / "report.html"
    path.write_text("old")
    write_report(path, RunReport(title="Σ new"))
    assert "Σ new" in path.read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_keeps_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(source: Path, target: Path) -> None:
        assert Path(source).parent == tmp_path
        raise OSError("disk is full")

    path = tmp_path / "report.html"
    path.write_text("old")
    monkeypatch.setattr(page_module.os, "replace", fail)
    with pytest.raises(OSError, match="disk is full"):
        write_report(path, RunReport(title="new"))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


# --- the layer table


def test_skipped_layers_stand_below_the_converted_ones_with_their_reason():
    rows = (
        LayerRow("head", (10, 768), reason="10 output features, 16 are needed"),
        LayerRow("fc1", (3072, 768), "2:4 weights", "masked", 0.5, 0.823, 0.0),
    )
    page = render_report(RunReport(title="x", layers=rows, shares="2:4: 50% & more"))
    places = [page.index(text) for text in (">fc1<", "stay dense", ">head<", "10 output features")]
    assert places == sorted(places)
    assert "1 of 2 layers converted. 2:4: 50% &amp; more</p>" in page


def test_nothing_skipped_means_no_skipped_heading():
    page = render_report(RunReport(title="x", layers=(LayerRow("fc1", (8, 8), "2:4 weights"),)))
    assert "stay dense" not in page


def test_an_unmeasured_number_is_a_dash_and_nan_is_not_hidden():
    row = LayerRow("fc1", (3072, 768), density=0.5, kept_energy=None, flip_rate=math.nan)
    page = render_report(RunReport(title="x", layers=(row,)))
    assert re.findall(r'<td class="number">([^<]*)</td>', page) == ["3072 × 768", "50%", "–", "nan"]


# --- charts


def test_a_line_runs_from_the_lower_left_to_the_upper_right():
    assert paths(chart(curve(series("up", 0.0, 5.0, 10.0)))) == [
        "M0.0 200.0L500.0 100.0L1000.0 0.0"
    ]


@pytest.mark.parametrize("gap", [math.nan, math.inf, -math.inf, 1e305])
def test_a_value_that_cannot_be_drawn_breaks_the_line(gap: float):
    (d,) = paths(chart(curve(series("a", 0.0, 1.0, gap, 1.0, 0.0))))
    assert d == "M0.0 200.0L250.0 0.0M750.0 0.0L1000.0 200.0"


def test_break_at_gaps_keeps_lone_points():
    points = [(0.0, math.nan), (1.0, 5.0), (2.0, math.inf), (3.0, 6.0), (4.0, 7.0)]
    assert break_at_gaps(points) == [[(1.0, 5.0)], [(3.0, 6.0), (4.0, 7.0)]]


def test_one_point_draws_a_dot_in_the_middle_and_its_value():
    html = chart(curve(Series("a", (10.0,), (31.25,))))
    assert paths(html) == []
    assert 'cx="50.000%"' in html
    assert ">31.25</text>" in html


@pytest.mark.parametrize("lines", [(), (series("a"),), (series("a", math.nan, math.inf),)])
def test_a_chart_without_values_says_so(lines: tuple[Series, ...]):
    html = chart(curve(*lines))
    assert "no data" in html
    assert paths(html) == []


def test_an_empty_series_beside_a_full_one_is_named_in_the_legend():
    html = chart(curve(series("full", 1.0, 2.0), series("empty")))
    assert "empty (no data)" in html
    assert "full (no data)" not in html


def test_the_last_drawable_value_is_labelled():
    assert ">0.4123</text>" in chart(curve(series("a", 2.0, 0.41234, math.nan)))


def test_a_few_series_have_a_legend_entry_each():
    html = chart(curve(series("train", 2.0, 1.0), series("val", 2.0, 1.5)))
    assert "train</span>" in html
    assert "val</span>" in html
    assert "var(--line0)" in html
    assert "var(--line1)" in html


def test_many_series_share_one_legend_and_show_min_median_max():
    many = tuple(series(f"layer{i}", 0.8, 0.5 + i / 100) for i in range(25))
    html = chart(curve(*many))
    assert len(paths(html)) == 25
    assert re.findall(r'class="value"[^>]*>([^<]*)', html) == ["max 0.74", "med 0.62", "min 0.5"]
    assert "25 series, lowest layer0, highest layer24" in html
    assert "layer7" not in html.split('class="legend"')[1]
    assert len(set(re.findall(r'path style="stroke:([^"]+)"', html))) == 25


def test_spans_shade_their_share_of_the_axis_and_no_more():
    spans = (Span("sparse", -5, 5), Span("tail", 5, 99), Span("never", 50, 60))
    html = chart(curve(series("a", *range(11)), spans=spans))
    shaded = re.findall(r'x="([\d.]+%)" width="([\d.]+%)"', html)
    assert shaded == [("0.000%", "50.000%"), ("50.000%", "50.000%")]
    assert "tail</span>" in html
    assert "never" not in html


def test_spans_of_one_label_share_a_shade_and_a_legend_entry():
    spans = (Span("dense", 0, 2), Span("sparse", 2, 8), Span("dense", 8, 10))
    html = chart(curve(series("a", *range(11)), spans=spans))
    assert re.findall(r'rect class="(phase\d)"', html) == ["phase0", "phase1", "phase0"]
    assert html.count("dense</span>") == 1


def test_a_run_logged_from_a_few_steps_in_starts_its_axis_at_zero():
    html = chart(curve(Series("a", (40.0, 1000.0), (1.0, 2.0))))
    assert paths(html) == ["M40.0 200.0L1000.0 0.0"]


def test_thinning_keeps_a_spike_of_one_step_and_both_ends():
    points = [(i / 100, 1.0) for i in range(100_000)]
    points[54_321] = (543.21, 9.0)
    kept = thin_out(points)
    assert len(kept) < 2100
    assert (543.21, 9.0) in kept
    assert kept[0] == points[0]
    assert kept[-1] == points[-1]
    assert kept == sorted(kept)


def test_thinning_leaves_a_sparse_line_alone():
    points = [(10.0 * i, float(i % 3)) for i in range(50)]
    assert thin_out(points) == points


@pytest.mark.parametrize(
    ("heights", "expected"),
    [
        ([50.0, 10.0], [50.0, 10.0]),
        ([100.0, 101.0, 102.0], [100.0, 113.0, 126.0]),
        ([198.0, 199.0, 200.0], [174.0, 187.0, 200.0]),
        ([101.0, 100.0], [113.0, 100.0]),
    ],
)
def test_value_labels_are_moved_apart_in_order(heights: list[float], expected: list[float]):
    assert spread_labels(heights, gap=13.0, bottom=200.0) == expected


# --- axes and numbers


def test_a_rounded_axis_begins_and_ends_at_a_tick():
    axis = rounded_axis([0.31, 2.29], most_ticks=5)
    assert (axis.low, axis.high) == (0.0, 2.5)
    assert axis.ticks == (0.0, 0.5, 1.0, 1.5, 2.0, 2.5)


def test_a_tight_axis_keeps_its_range_and_ticks_inside():
    axis = tight_axis([50, 30_000], most_ticks=5)
    assert (axis.low, axis.high) == (50, 30_000)
    assert axis.ticks == (10_000, 20_000, 30_000)


@pytest.mark.parametrize("value", [0.0, 5e-324, 1.0, -3e-5, 1e299, -7.0])
def test_a_single_value_lies_in_the_middle_of_its_axis(value: float):
    assert tight_axis([value], most_ticks=5).fraction(value) == pytest.approx(0.5)


@pytest.mark.parametrize("values", [[-9e299, 9e299], [1.0, 1.0 + 1e-15], [0.0, 1e-40], [-1, 2e9]])
def test_every_axis_holds_its_values_and_has_ticks(values: list[float]):
    axis = rounded_axis(values, most_ticks=5)
    assert all(0 <= axis.fraction(v) <= 1 for v in values)
    assert 2 <= len(axis.ticks) <= 7


@pytest.mark.parametrize(
    ("ticks", "labels"),
    [
        ((0, 10_000, 20_000), ["0", "10k", "20k"]),
        ((0.0, 2500.0, 5000.0), ["0", "2.5k", "5.0k"]),
        ((0.8, 0.825, 0.85), ["0.800", "0.825", "0.850"]),
        ((-1.0, 0.0, 1.0), ["-1", "0", "1"]),
        ((0.0, 2e-5, 4e-5), ["0", "2e-05", "4e-05"]),
        ((1e6, 2e6), ["1M", "2M"]),
    ],
)
def test_tick_labels_share_unit_and_decimals(ticks: tuple[float, ...], labels: list[str]):
    assert tick_labels(ticks) == labels


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.412345, "0.4123"),
        (12.345, "12.35"),
        (12_345.0, "12.35k"),
        (999_999.0, "1000k"),
        (2.13e-5, "2.1e-05"),
        (0.0, "0"),
        (-1.5, "-1.5"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (3e20, "3e+20"),
    ],
)
def test_numbers_are_short(value: float, text: str):
    assert number(value) == text


# --- masks


def test_change_codes_tell_the_four_cases_apart():
    before = torch.tensor([[True, True, False, False]])
    after = torch.tensor([[True, False, True, False]])
    assert change_codes(before, after).tolist() == [[1, 3, 2, 0]]


def test_the_png_has_one_pixel_per_weight_and_pruned_is_transparent():
    codes = torch.tensor([[0, 1], [2, 3], [1, 0]], dtype=torch.uint8)
    assert rows_of_colours(codes_png(codes, (STAYED, NEW, DROPPED))) == [
        [None, STAYED],
        [NEW, DROPPED],
        [STAYED, None],
    ]


def test_masks_that_are_views_are_drawn_as_they_read():
    mask = torch.zeros(4, 6, dtype=torch.bool)
    mask[1, 2] = True
    pair = MaskPair("w", mask.T[:3], mask.T[:3])
    before = render_report(RunReport(title="x", masks=(pair,))).split("base64,")[1].split('"')[0]
    none = [None] * 4
    assert rows_of_colours(base64.b64decode(before)) == [none, none, [None, KEPT, None, None]]


def test_mask_legend_counts_what_changed():
    before = torch.tensor([[True, True, False, False], [True, True, False, False]])
    after = torch.tensor([[True, False, True, False], [True, True, False, False]])
    page = render_report(RunReport(title="x", masks=(MaskPair("w", before, after),)))
    for text in ("kept in both (3)", "new (1)", "dropped (1)", "25.0% flipped", "50.0% kept"):
        assert text in page


@pytest.mark.parametrize("shape", [(1, 1), (64, 64), (64, 3), (5, 48)])
def test_pictures_are_enlarged_by_whole_pixels_also_on_a_narrow_page(shape: tuple[int, int]):
    mask = torch.ones(shape, dtype=torch.bool)
    page = render_report(RunReport(title="x", masks=(MaskPair("w", mask, mask),)))
    for width, height in re.findall(r"--w:(\d+)px;--h:(\d+)px", page):
        zoom = int(width) // shape[1]
        assert zoom % 3 == 0
        assert (int(width), int(height)) == (zoom * shape[1], zoom * shape[0])
        assert max(int(width), int(height)) <= 192


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (torch.ones(4, 4), torch.ones(4, 4), "before.*float32.*bool"),
        (torch.ones(4, 4, dtype=torch.bool), torch.ones(4, dtype=torch.bool), r"after.*\[4\]"),
        (*[torch.ones(65, 4, dtype=torch.bool)] * 2, r"mask\[:64, :64\]"),
        (*[torch.ones(0, 4, dtype=torch.bool)] * 2, "1 to 64"),
        (torch.ones(4, 4) > 0, torch.ones(4, 8) > 0, "same corner twice"),
    ],
)
def test_masks_that_make_no_picture_are_refused(before, after, message: str):
    with pytest.raises(ValueError, match=message):
        MaskPair("w", before, after)


def test_series_of_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="'loss' has 2 steps but 1 values"):
        Series("loss", (0.0, 1.0), (5.0,))


def test_a_step_that_is_not_a_number_is_refused():
    with pytest.raises(ValueError, match="has the step nan"):
        Series("loss", (math.nan,), (5.0,))


@pytest.mark.parametrize("stop", [0.0, math.nan])
def test_spans_that_run_backwards_are_refused(stop: float):
    with pytest.raises(ValueError, match="start <= stop"):
        Span("sparse", 1.0, stop)


# --- metrics.csv


def write_csv(folder: Path, text: str) -> Path:
    path = folder / "metrics.csv"
    path.write_text(text)
    return path


def test_empty_cells_are_skipped_and_each_metric_has_its_own_steps(tmp_path: Path):
    text = "epoch,step,train/loss,val/top1\n0,49,2.5,\n0,99,,0.25\n1,99,1.5,\n,149,nan,\n"
    got = read_metrics(write_csv(tmp_path, text))
    assert list(got) == ["epoch", "train/loss", "val/top1"]
    assert got["epoch"] == ((49, 99, 99), (0, 0, 1))
    assert got["val/top1"] == ((99,), (0.25,))
    steps, values = got["train/loss"]
    assert steps == (49, 99, 149)
    assert values[:2] == (2.5, 1.5)
    assert math.isnan(values[2])


def test_a_column_without_values_is_an_empty_series(tmp_path: Path):
    assert read_metrics(write_csv(tmp_path, "step,a\n0,\n")) == {"a": ((), ())}


def test_a_short_last_line_is_read_as_empty_cells(tmp_path: Path):
    assert read_metrics(write_csv(tmp_path, "step,a,b\n0,1,2\n1,3")) == {
        "a": ((0, 1), (1, 3)),
        "b": ((0,), (2,)),
    }


def test_an_empty_file_has_no_metrics(tmp_path: Path):
    assert read_metrics(write_csv(tmp_path, "")) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch,loss\n0,1\n", "no `step` column but .*loss"),
        ("step,loss\n0,1\n1,high\n", "line 3, column loss holds 'high'"),
        ("step,loss\n,1\n", "line 2, column step holds ''"),
    ],
)
def test_a_file_that_is_no_metrics_csv_is_refused(tmp_path: Path, text: str, message: str):
    with pytest.raises(ValueError, match=message):
        read_metrics(write_csv(tmp_path, text))


def test_a_real_csv_logger_file_reads_back_what_was_logged(tmp_path: Path):
    loggers = pytest.importorskip("pytorch_lightning.loggers")
    logger = loggers.CSVLogger(tmp_path, name="run", version=0)
    logger.log_metrics({"train/loss": 2.5, "epoch": 0}, step=49)
    logger.save()
    logger.log_metrics({"val/top1": torch.tensor(0.25), "epoch": 0}, step=99)
    logger.log_metrics({"train/loss": 1.5, "sparsity/kept_energy/blocks_0_fc1": 0.875}, step=99)
    logger.save()
    got = read_metrics(Path(logger.log_dir) / "metrics.csv")
    assert got["train/loss"] == ((49, 99), (2.5, 1.5))
    assert got["val/top1"] == ((99,), (0.25,))
    assert got["sparsity/kept_energy/blocks_0_fc1"] == ((99,), (0.875,))
