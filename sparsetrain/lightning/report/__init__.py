"""One self-contained HTML file per run: what ran, what was sparse, and how it went.

data.py      what a report says (frozen types)
metrics.py   Lightning's metrics.csv -> steps and values
axis.py      ranges, ticks and numbers as people write them
chart.py     a Curve -> inline SVG
masks.py     a MaskPair -> three PNGs
page.py      a RunReport -> the page, written atomically
"""

from sparsetrain.lightning.report.data import (
    Curve,
    LayerRow,
    MaskPair,
    RunReport,
    Series,
    Span,
)
from sparsetrain.lightning.report.metrics import read_metrics
from sparsetrain.lightning.report.page import render_report, write_report

__all__ = [
    "Curve",
    "LayerRow",
    "MaskPair",
    "RunReport",
    "Series",
    "Span",
    "read_metrics",
    "render_report",
    "write_report",
]
