"""The curve of speed over density: every format multiplies right, and the picture is drawn."""

import json

import pytest
import torch

from scripts.bench.curve import main, measure_density


def test_every_format_of_a_cpu_gives_the_dense_product():
    x = torch.randn(8, 768)
    points = list(measure_density(x, 0.01, torch.Generator().manual_seed(0)))
    assert [point.form for point in points] == ["dense", "coo", "csr"] + [
        f"bsr {size}" for size in (16, 32, 64, 128)
    ]
    assert not [point.refused for point in points if point.refused]
    for point in points:
        assert point.density == pytest.approx(0.01, rel=0.35), point.form  # of whole blocks
        assert point.speed == pytest.approx(points[0].milliseconds / point.milliseconds)


def test_what_came_before_the_time_was_over_is_written(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    main(["tokens=8", "seconds=0", f"json={tmp_path / 'c.json'}", f"picture={tmp_path / 'c.png'}"])
    assert "the rest is skipped: 0 s are over" in capsys.readouterr().out
    written = json.loads((tmp_path / "c.json").read_text())
    assert [point["form"] for point in written["points"]] == ["dense"]
    assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"


def test_unknown_words_are_refused():
    with pytest.raises(ValueError, match="batch=3: give json=, picture=, tokens= or seconds="):
        main(["batch=3"])
