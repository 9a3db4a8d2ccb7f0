"""A resumed run sees exactly the samples, in order and in content, of the uninterrupted one."""

import pytest
import pytorch_lightning as pl
import torch
from conftest import Numbered
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


@pytest.mark.parametrize("val", [True, False], ids=["val", "no_val"])
@pytest.mark.parametrize("limit", [{"max_epochs": EPOCHS}, {"max_epochs": -1, "max_steps": 16}], ids=["epochs", "steps"])
@pytest.mark.parametrize("when", [each_step, each_epoch, each_validation])
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("extra", [{}, {"limit_train_batches": 4}, {"val_check_interval": 0.5},{"check_val_every_n_epoch": 2}])
def test_resuming_from_any_checkpoint(tmp_path, when, val, limit, workers, extra):
    if when is each_validation and not val: pytest.skip("")
    if workers and extra: pytest.skip("")
    settings={**limit,**extra}
    whole = fit(tmp_path, val=val, checkpoint=when(tmp_path / "c"), **settings)
    saved = checkpoints(tmp_path / "c")
    bad=[]
    for step, path in saved:
        rest = fit(tmp_path, data=Numbered(num_workers=workers), resume=path, checkpoint=when(tmp_path / "c"), val=val, **settings)
        if rest != whole[step:]:
            key={tuple(map(tuple,b)):i for i,b in enumerate(whole)}
            bad.append((path.name, step,[key.get(tuple(map(tuple,b)),'?') for b in rest]))
    assert not bad, bad
