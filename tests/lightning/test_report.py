"""The report page: what is on it, that it needs nothing else, what its pictures show."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparsetrain.lightning.report import (
    LayerRow,
    MaskPair,
    Run,
    Span,
    read_metrics,
    render_report,
    write_report,
)
from sparsetrain.lightning.report import record as record_module
from sparsetrain.lightning.report.masks import DROPPED, KEPT, NEW, STAYED, change_codes, codes_png

VOID = {"meta", "img", "wbr"}
HOSTILE = "</title></script><script>alert('x')</script>&\""


class Outline(HTMLParser):
    """Checks that every tag is closed in order, and collects tags and addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for key, value in attrs if key in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def outline(page: str) -> Outline:
    parser = Outline()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


def drawn(page: str) -> dict[str, list]:
    """What the page's scripts draw."""
    [text] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    return json.loads(text)


def rows_of_colours(png: bytes) -> list[list[tuple[int, ...] | None]]:
    """The pixels row by row; None where transparent."""
    image = Image.open(io.BytesIO(png)).convert("RGBA")
    data = image.tobytes()
    pixels = [tuple(data[i : i + 3]) if data[i + 3] else None for i in range(0, len(data), 4)]
    return [pixels[i : i + image.width] for i in range(0, len(pixels), image.width)]


def full_run(name: str = "name") -> Run:
    mask = np.array([[True, False], [False, True]])
    return Run(
        title=name,
        label=name,
        state=name,
        facts=((name, name),),
        notes=(name,),
        config={name: {name: name}},
        metrics={
            "train/loss": ((0.0, 1.0), (2.0, 1.0)),
            f"sparsity/kept_energy/{name}": ((0.0, 1.0), (0.5, 0.6)),
        },
        phases=(Span(name, 0, 1), Span("tail", 1, 2)),
        layers=(
            LayerRow(name, (4, 8), name, name, 0.5, 0.823, 0.0012),
            LayerRow(name, (4, 8), reason=name),
        ),
        shares=name,
        masks=(MaskPair(name, mask, ~mask),),
    )


# --- the page


@pytest.mark.parametrize("runs", [(full_run(),), (full_run("a"), full_run("b"))])
def test_a_page_is_well_formed_and_loads_nothing(runs):
    page = render_report(runs)
    parsed = outline(page)
    assert {"table", "figure", "noscript"} <= set(parsed.tags)
    assert not {"link", "iframe", "svg"} & set(parsed.tags)
    assert all(address.startswith("data:image/png;base64,") for address in parsed.addresses)
    assert not re.search(r"""(?:src|href)=["']?https?:|url\(|@import""", page)


def test_only_the_scripts_of_the_page_may_run():
    page = render_report([full_run()])
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]+)"', page)
    scripts = re.findall(r"<script>(.*?)</script>", page, re.S)
    hashes = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    assert len(scripts) == 3
    assert policy == (
        "default-src 'none'; base-uri 'none'; form-action 'none'; "
        "style-src 'unsafe-inline'; img-src data:; script-src "
        + " ".join(f"'sha256-{each}'" for each in hashes)
    )


@pytest.mark.parametrize("count", [1, 2])
def test_every_name_is_escaped(count):
    page = render_report([full_run(HOSTILE)] * count)
    plain = render_report([full_run("plainname")] * count)
    assert outline(page).tags == outline(plain).tags
    assert "<script>alert" not in page
    data = drawn(page)["charts"][0]
    assert (data["bands"][0]["label"] if count == 1 else data["series"][0]["name"]) == HOSTILE


def test_an_empty_run_has_a_title_and_no_empty_sections():
    page = render_report([Run("bare", "")])
    assert "<h1>bare</h1>" in page
    assert "<h2>" not in page


def test_many_runs_have_a_title_of_one_line():
    runs = [Run(name, name) for name in ("a", "b", "c", "d")]
    assert "<h1>a against b against c</h1>" in render_report(runs[:3])
    assert "<h1>4 runs side by side</h1>" in render_report(runs)


def test_the_same_run_gives_the_same_page():
    assert render_report([full_run()]) == render_report([full_run()])


def test_a_page_of_no_run_is_refused():
    with pytest.raises(ValueError, match="runs is empty"):
        render_report([])


def test_writing_replaces_the_old_page_and_leaves_no_other_file(tmp_path: Path):
    path = tmp_path / "report.html"
    path.write_text("old")
    write_report(path, [Run("Σ new", "")])
    assert "Σ new" in path.read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_keeps_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(source: Path, target: Path) -> None:
        assert Path(source).parent == tmp_path
        raise OSError("disk is full")

    path = tmp_path / "report.html"
    path.write_text("old")
    monkeypatch.setattr(record_module.os, "replace", fail)
    with pytest.raises(OSError, match="disk is full"):
        write_report(path, [Run("new", "")])
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


# --- the layer table


def test_layers_that_stay_dense_are_below_the_others_with_their_reason():
    rows = (
        LayerRow("head", (10, 768), reason="10 output features, 16 are needed"),
        LayerRow("fc1", (3072, 768), "2:4 weights", "masked", 0.5, 0.823, 0.0),
    )
    page = render_report([Run("x", "x", layers=rows, shares="2:4: 50% & more")])
    places = [page.index(t) for t in (">fc1<", "1 layer stays dense", ">head<", "10 output")]
    assert places == sorted(places)
    assert "1 of 2 layers converted; 2:4: 50% &amp; more</p>" in page


def test_an_unmeasured_number_is_a_dash_and_nan_is_not_hidden():
    row = LayerRow("fc1", (3072, 768), density=0.5, kept_energy=None, flip_rate=math.nan)
    page = render_report([Run("x", "x", layers=(row,))])
    cells = re.findall(r'<td class="number[^>]*>([^<]*)</td>', page)
    assert cells == ["3072 × 768", "50%", "–", "nan"]


def test_two_levels_show_what_each_keeps_and_the_density_is_drawn():
    row = LayerRow("fc1", (8, 8), density=0.125, kept_energy=0.54, outer_energy=0.62)
    page = render_report([Run("x", "x", layers=(row,))])
    assert ">62% → 54%</span>" in page
    assert 'style="--share:12.5%">12.5%</td>' in page


def test_layers_that_stay_dense_have_a_column_for_the_reason():
    page = render_report([full_run()])
    assert "<tr><th>layer</th><th>shape</th><th>why</th></tr>" in page


def test_a_comparison_names_each_run_once_and_breaks_long_keys_after_their_dots():
    runs = [Run(f"{name}: a model", name, config={"a": {"b": name}}) for name in ("x", "y")]
    page = render_report(runs)
    assert "<summary>x: a model</summary>" in page
    assert '<th scope="row">a.<wbr>b</th>' in page


# --- masks


def test_change_codes_tell_the_four_cases_apart():
    before = np.array([[True, True, False, False]])
    after = np.array([[True, False, True, False]])
    assert change_codes(before, after).tolist() == [[1, 3, 2, 0]]


def test_the_png_has_one_pixel_per_weight_and_pruned_is_transparent():
    codes = np.array([[0, 1], [2, 3], [1, 0]], np.uint8)
    assert rows_of_colours(codes_png(codes, (STAYED, NEW, DROPPED))) == [
        [None, STAYED],
        [NEW, DROPPED],
        [STAYED, None],
    ]


def test_masks_that_are_views_are_drawn_as_they_read():
    mask = np.zeros((4, 6), bool)
    mask[1, 2] = True
    pair = MaskPair("w", mask.T[:3], mask.T[:3])
    before = render_report([Run("x", "x", masks=(pair,))]).split("base64,")[1].split('"')[0]
    none = [None] * 4
    assert rows_of_colours(base64.b64decode(before)) == [none, none, [None, KEPT, None, None]]


def test_mask_legend_counts_what_changed():
    before = np.array([[True, True, False, False], [True, True, False, False]])
    after = np.array([[True, False, True, False], [True, True, False, False]])
    page = render_report([Run("x", "x", masks=(MaskPair("w", before, after),))])
    for text in ("kept in both (3)", "new (1)", "dropped (1)", "25.0% flipped", "50.0% kept"):
        assert text in page


def test_a_map_of_blocks_says_that_it_is_one():
    mask = np.ones((2, 3), bool)
    pair = MaskPair("w", mask, mask, "blocks of 64×64")
    page = render_report([Run("x", "x", masks=(pair,))])
    assert '<span class="unit">2 × 3 blocks of 64×64</span>' in page


@pytest.mark.parametrize("shape", [(1, 1), (64, 64), (64, 3), (5, 48)])
def test_pictures_are_enlarged_by_whole_pixels_also_on_a_narrow_page(shape: tuple[int, int]):
    mask = np.ones(shape, bool)
    page = render_report([Run("x", "x", masks=(MaskPair("w", mask, mask),))])
    for width, height in re.findall(r"--w:(\d+)px;--h:(\d+)px", page):
        zoom = int(width) // shape[1]
        assert zoom % 3 == 0
        assert (int(width), int(height)) == (zoom * shape[1], zoom * shape[0])
        assert max(int(width), int(height)) <= 192


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (np.ones((4, 4)), np.ones((4, 4)), "before.*float64.*bool"),
        (np.ones((4, 4), bool), np.ones(4, bool), r"after.*\[4\]"),
        (*[np.ones((65, 4), bool)] * 2, r"mask\[:64, :64\]"),
        (*[np.ones((0, 4), bool)] * 2, "1 to 64"),
        (np.ones((4, 4), bool), np.ones((4, 8), bool), "same corner twice"),
    ],
)
def test_masks_that_make_no_picture_are_refused(before, after, message: str):
    with pytest.raises(ValueError, match=message):
        MaskPair("w", before, after)


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
        ("step,loss\ninf,1\n", "line 2, column step holds 'inf'; give a finite number ≥ 0"),
        ("step,epoch\n0,-1\n", "line 2, column epoch holds '-1'; give a finite number ≥ 0"),
        ("step,epoch\n0,nan\n", "line 2, column epoch holds 'nan'; give a finite number"),
        ("step,loss\n0,1,2\n", "line 2 has more cells than the 2 columns"),
        ("step,loss\n0,1\x002\n", "column loss holds|line contains NUL"),
        ("step,loss\n0," + "9" * 200_000, "is no CSV: field larger than field limit"),
        ("step,loss\n0," + "x" * 100_000, r"column loss holds 'x+\.\.\.x+'; every cell"),
    ],
)
def test_a_file_that_is_no_metrics_csv_is_refused(tmp_path: Path, text: str, message: str):
    with pytest.raises(ValueError, match=message):
        read_metrics(write_csv(tmp_path, text))


def test_a_file_that_is_no_text_is_refused(tmp_path: Path):
    (tmp_path / "metrics.csv").write_bytes(b"step,loss\n0,\xff\n")
    with pytest.raises(ValueError, match=r"metrics\.csv is no text in UTF-8"):
        read_metrics(tmp_path / "metrics.csv")


@pytest.mark.parametrize("odd", ["inf", "-inf", "nan", "1e308", "-1e308", "1e-320"])
def test_a_page_is_made_of_any_measured_number(tmp_path: Path, odd: str):
    names = "step,epoch,train/loss,val/top1,perf/elapsed_s,perf/images_per_s,perf/memory_gib"
    rows = [f"{step},{step},{','.join([odd if step else '1'] * 5)}" for step in range(3)]
    metrics = read_metrics(write_csv(tmp_path, "\n".join([names, *rows])))
    assert outline(render_report([Run("x", "x", metrics=metrics)])).tags


def test_a_real_csv_logger_file_reads_back_what_was_logged(tmp_path: Path):
    loggers = pytest.importorskip("pytorch_lightning.loggers")
    logger = loggers.CSVLogger(tmp_path, name="run", version=0)
    logger.log_metrics({"train/loss": 2.5, "epoch": 0}, step=49)
    logger.save()
    logger.log_metrics({"val/top1": np.array(0.25), "epoch": 0}, step=99)
    logger.log_metrics({"train/loss": 1.5, "sparsity/kept_energy/blocks_0_fc1": 0.875}, step=99)
    logger.save()
    got = read_metrics(Path(logger.log_dir) / "metrics.csv")
    assert got["train/loss"] == ((49, 99), (2.5, 1.5))
    assert got["val/top1"] == ((99,), (0.25,))
    assert got["sparsity/kept_energy/blocks_0_fc1"] == ((99,), (0.875,))


def test_a_shape_from_a_file_is_text_and_no_markup():
    row = LayerRow(name="a", shape=("<meta http-equiv=refresh>",))  # pyright: ignore[reportArgumentType]
    page = render_report([Run("x", "x", layers=(row,))])
    assert "<meta http-equiv=refresh>" not in page
    assert "&lt;meta http-equiv=refresh&gt;" in page
