"""Progress: a bar on a terminal, a line an epoch elsewhere."""

import sys

import pytorch_lightning as pl
from lightning_helpers import CHATTER, Stranger, vectors
from pytorch_lightning.callbacks import RichProgressBar

from sparsetrain.lightning import progress
from sparsetrain.lightning.progress import Bar, EpochLines

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
    for terminal, kind in ((True, RichProgressBar), (False, EpochLines)):
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


def test_the_bar_reads_the_loss_of_the_steps_that_are_logged_alone(tmp_path):
    class Counts(Stranger):
        def training_step(self, batch):
            loss = super().training_step(batch)
            self.log("train/loss", float(self.trainer.global_step + 1))
            return loss

    shown = []

    class Reads(Bar):
        def get_metrics(self, trainer, pl_module):
            metrics = super().get_metrics(trainer, pl_module)
            shown.append(metrics.get("train/loss"))
            return metrics

    bar = Reads()
    for _ in range(2):  # a bar may be used again
        trainer(tmp_path, bar, max_epochs=1, log_every_n_steps=2).fit(Counts(), vectors())
    assert shown == 2 * [None, 2.0, 2.0, 4.0, 4.0]  # the last at the end of the epoch
