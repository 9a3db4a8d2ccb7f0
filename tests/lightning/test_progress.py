"""Progress: a bar on a terminal, a line an epoch elsewhere."""

import io
import re
import sys

import pytorch_lightning as pl
from lightning_helpers import CHATTER, Stranger, vectors
from rich.console import Console

from sparsetrain.cli.console import console
from sparsetrain.cli.show import show_line
from sparsetrain.lightning import progress
from sparsetrain.lightning.progress_bar import Bar, EpochLines, _bar, duration

pytestmark = CHATTER


class Logs(Stranger):
    def training_step(self, batch):
        loss = super().training_step(batch)
        self.log("train/loss", 0.5)
        self.log("other", 3.0)
        return loss


def trainer(folder, bar, **settings):
    return pl.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[bar],
        **settings,
    )


def printed(folder, capsys, bar, **settings):
    capsys.readouterr()
    trainer(folder, bar, **settings).fit(Logs(), vectors())
    return capsys.readouterr().out.splitlines()


def test_a_terminal_gets_a_bar_and_a_file_gets_lines(monkeypatch):
    for terminal, kind in ((True, Bar), (False, EpochLines)):
        monkeypatch.setattr(sys.stdout, "isatty", lambda terminal=terminal: terminal)
        assert isinstance(progress(), kind)


def test_every_epoch_prints_one_line_with_its_step_and_metrics(tmp_path, capsys):
    lines = printed(tmp_path, capsys, EpochLines(), max_epochs=2)
    assert lines == ["epoch 1/2  step 4  train/loss 0.5", "epoch 2/2  step 8  train/loss 0.5"]


def test_a_run_given_in_steps_has_no_number_of_epochs(tmp_path, capsys):
    lines = printed(tmp_path, capsys, EpochLines(), max_epochs=-1, max_steps=4)
    assert lines == ["epoch 1  step 4  train/loss 0.5"]


def test_processes_that_lightning_disables_print_nothing(tmp_path, capsys):
    class Second(EpochLines):
        def setup(self, trainer, pl_module, stage):
            super().setup(trainer, pl_module, stage)
            self.disable()  # as Lightning does in all but the first

    assert printed(tmp_path, capsys, Second(), max_epochs=1) == []


class Counts(Stranger):
    """Its loss is the number of its step."""

    def training_step(self, batch):
        loss = super().training_step(batch)
        self.log("train/loss", float(self.trainer.global_step + 1))
        return loss


def pictures(folder, monkeypatch, width=80, **settings):
    """Every picture of the bar in a run of two epochs of four steps, and what stays."""
    monkeypatch.setattr(sys.modules[Bar.__module__], "SECONDS", 0.0)
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=width, color_system=None)
    trainer(folder, Bar(console), max_epochs=2, log_every_n_steps=2, **settings).fit(
        Counts(), vectors()
    )
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", file.getvalue()).replace("\r", "\n")
    return [line for line in text.splitlines() if line.strip()]


def test_the_bar_fits_80_columns_with_epoch_time_speed_and_loss(tmp_path, monkeypatch):
    lines = pictures(tmp_path, monkeypatch)
    assert max(map(len, lines)) <= 80
    last = lines[-1]
    assert last.startswith("epoch 2/2")
    assert re.search(r"━ +\d+%  0:00 left  [\d,]+ img/s  loss \d$", last), last
    assert len([line for line in lines if line.startswith("epoch 1/2")]) >= 4


def test_the_bar_reads_the_loss_of_the_steps_that_are_logged_alone(tmp_path, monkeypatch):
    losses = [re.search(r"loss (\d)", line) for line in pictures(tmp_path, monkeypatch)]
    shown = [int(loss[1]) for loss in losses if loss]
    assert set(shown) == {2, 4, 6, 8}
    assert shown == sorted(shown)


def test_an_epoch_leaves_a_row_above_the_bar_too(tmp_path, monkeypatch):
    rows = [line for line in pictures(tmp_path, monkeypatch) if "  step " in line]
    assert rows == ["epoch 1/2  step 4  train/loss 4", "epoch 2/2  step 8  train/loss 8"]


def test_a_line_that_is_shown_amid_a_run_stays_above_the_bar(monkeypatch):
    # What the commands print goes to another console than the bar's, on the same terminal.
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stdout", terminal)
    bar = _bar(Console(force_terminal=True, width=80, color_system=None))
    monkeypatch.setattr(console, "_force_terminal", True)
    bar.start()
    bar.add_task("", total=1, where="epoch 1/1", rest="")
    bar.refresh()
    show_line("step 1: phase sparse begins")
    bar.stop()
    rows = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", terminal.getvalue()).replace("\r", "\n")
    assert "step 1: phase sparse begins" in rows.splitlines()


def test_the_time_that_is_left_is_told_in_hours_and_in_days():
    assert [duration(s) for s in (0, 62, 3723, 200_000)] == ["0:00", "1:02", "1:02:03", "2 d 7 h"]
