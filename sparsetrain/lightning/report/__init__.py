"""One self-contained HTML file, of a run or of several side by side: what ran, what was sparse, how
it went. Drawn by uPlot, which is in the file.

data.py      what a report says of a run (frozen types)
record.py    run.json and metrics.csv of a folder -> a Run
metrics.py   Lightning's metrics.csv -> steps and values
measures.py  a Run -> best accuracy, images/s, memory, time
compare.py   Runs -> a table, sentences, what differs
charts.py    Runs -> what charts.js and maps.js draw
masks.py     a MaskPair -> three PNGs
parts.py     tables and lists as HTML
page.py      Runs -> the page, written whole
uplot/       uPlot 1.6.32 (MIT), as published
"""

from sparsetrain.lightning.report.data import LayerRow, MaskPair, Run, Span
from sparsetrain.lightning.report.metrics import read_metrics
from sparsetrain.lightning.report.page import render_report, write_report
from sparsetrain.lightning.report.record import read_run, write_record

__all__ = [
    "LayerRow",
    "MaskPair",
    "Run",
    "Span",
    "read_metrics",
    "read_run",
    "render_report",
    "write_record",
    "write_report",
]
