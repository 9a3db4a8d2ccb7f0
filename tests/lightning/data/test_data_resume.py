"""A resumed run sees exactly the samples, in order and in content, of the uninterrupted one."""

import pytest
import pytorch_lightning as pl
import torch
from data_helpers import Numbered
from pytorch_lightning.callbacks import ModelCheckpoint

from sparsetrain.lightning.data import Position, train_position

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning"),
]

STEPS = 6  # per epoch: 24 samples in batches of 4
EPOCHS = 3


class Recorder(pl.LightningModule):
    """Writes down every batch it is trained on as a list of (label, image value)."""

    def __init__(self, stop_at=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []
        self.stop_at = stop_at

    def training_step(self, batch):
        images, labels = batch
        if len(self.seen) == self.stop_at:
            raise KeyError("power cut")
        self.seen.append(list(zip(labels.tolist(), images.flatten().tolist(), strict=True)))
        return (self.weight * images).mean()

    def validation_step(self, batch):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder, *, data=None, module=None, resume=None, checkpoint=None, val=True, **settings):
    """Train, from `resume` if given, and return what was seen. `settings` are Trainer's."""
    module = module or Recorder()
    settings = {"max_epochs": EPOCHS, "limit_val_batches": 1.0 if val else 0, **settings}
    callbacks = [] if checkpoint is None else [checkpoint]
    trainer = pl.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=checkpoint is not None,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        callbacks=callbacks,
        **settings,
    )
    trainer.fit(module, datamodule=data or Numbered(), ckpt_path=resume, weights_only=False)
    return module.seen


def checkpoints(folder):
    """(optimizer steps done, file) of every checkpoint written."""
    files = {path: torch.load(path, weights_only=False)["global_step"] for path in folder.iterdir()}
    return sorted((step, path) for path, step in files.items())


def each_step(folder):
    return ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1)


def each_epoch(folder):
    return ModelCheckpoint(folder, save_on_train_epoch_end=True, save_top_k=-1)


def each_validation(folder):
    return ModelCheckpoint(folder, save_on_train_epoch_end=False, save_top_k=-1)


@pytest.mark.parametrize(
    ("when", "workers", "settings"),
    [
        (each_step, 0, {"max_epochs": 2}),
        (each_step, 0, {"max_epochs": 2, "val": False}),
        (each_step, 0, {"max_epochs": 2, "limit_train_batches": 4}),
        (each_step, 0, {"max_epochs": -1, "max_steps": 10}),
        (each_epoch, 0, {}),
        (each_epoch, 1, {"val": False}),
        (each_epoch, 0, {"max_epochs": -1, "max_steps": 16}),
        (each_epoch, 1, {"max_epochs": -1, "max_steps": 16, "val": False}),
        (each_validation, 0, {}),
        (each_validation, 1, {"max_epochs": 2, "val_check_interval": 0.5}),
    ],
)
def test_resuming_from_each_checkpoint_goes_on_with_the_samples_that_were_next(
    tmp_path, when, workers, settings
):
    whole = fit(tmp_path, checkpoint=when(tmp_path / "saved"), **settings)
    saved = checkpoints(tmp_path / "saved")
    assert len(saved) >= 2
    for step, path in saved:
        rest = fit(
            tmp_path,
            data=Numbered(num_workers=workers),
            resume=path,
            checkpoint=when(tmp_path / "saved"),
            **settings,
        )
        assert rest == whole[step:], path.name


def test_workers_that_prefetch_do_not_change_a_resumed_epoch(tmp_path):
    whole = fit(tmp_path, checkpoint=each_step(tmp_path / "saved"))
    saved = dict(checkpoints(tmp_path / "saved"))
    for step in (1, STEPS - 1, STEPS, STEPS + 3):
        rest = fit(
            tmp_path,
            data=Numbered(num_workers=2),
            resume=saved[step],
            checkpoint=each_step(tmp_path / "saved"),
        )
        assert rest == whole[step:], step


@pytest.mark.parametrize("at", [2, STEPS - 1, STEPS, STEPS + 1])
def test_a_batch_cut_short_by_an_exception_is_trained_again(tmp_path, at):
    def on_exception():
        return ModelCheckpoint(tmp_path / "saved", save_on_exception=True, every_n_epochs=99)

    whole = fit(tmp_path)
    with pytest.raises(KeyError, match="power cut"):
        fit(tmp_path, module=Recorder(stop_at=at), checkpoint=on_exception())
    [(_, path)] = checkpoints(tmp_path / "saved")
    assert fit(tmp_path, resume=path, checkpoint=on_exception()) == whole[at:]


def test_every_epoch_has_its_own_order_and_its_own_augmentation(tmp_path):
    whole = fit(tmp_path)
    first, second = whole[:STEPS], whole[STEPS : 2 * STEPS]
    labels = [[label for batch in epoch for label, _ in batch] for epoch in (first, second)]
    assert labels[0] != labels[1]
    assert sorted(labels[0]) == sorted(labels[1]) == list(range(24))
    noise = [dict(pair for batch in epoch for pair in batch) for epoch in (first, second)]
    assert all(noise[0][label] != noise[1][label] for label in range(24))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"batch_size": 3}, "global_batch 4 -> 3"),
        ({"seed": 4}, "seed 3 -> 4"),
        ({"length": 25}, "num_train 24 -> 25"),
    ],
)
def test_resuming_mid_epoch_on_another_order_is_refused(tmp_path, changed, said):
    fit(tmp_path, checkpoint=each_step(tmp_path / "saved"))
    path = dict(checkpoints(tmp_path / "saved"))[2]
    with pytest.raises(ValueError, match=f"from batch 2 of epoch 0 .*{said}"):
        fit(
            tmp_path,
            data=Numbered(**changed),
            resume=path,
            checkpoint=each_step(tmp_path / "saved"),
        )


def test_an_epochs_end_can_be_resumed_with_another_batch_size(tmp_path):
    fit(tmp_path, checkpoint=each_epoch(tmp_path / "saved"))
    path = dict(checkpoints(tmp_path / "saved"))[STEPS]
    rest = fit(
        tmp_path,
        data=Numbered(batch_size=12),
        resume=path,
        checkpoint=each_epoch(tmp_path / "saved"),
    )
    assert [len(batch) for batch in rest] == [12] * 4


def test_a_fresh_trainer_stands_at_the_first_batch():
    assert train_position(pl.Trainer(accelerator="cpu", logger=False)) == Position(0, 0)
