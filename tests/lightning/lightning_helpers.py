"""Small modules, data and trainers of the Lightning tests."""

from typing import Any

import pytest
import pytorch_lightning as pl
import timm
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from sparsetrain import Schedule, Sparsity
from sparsetrain.lightning import AdamW, AtomicCheckpointIO, Classifier, Mix, build_network
from sparsetrain.lightning.data import Augment, ImageData, SeededImages, Splits
from sparsetrain.lightning.data.digits import DigitSource
from sparsetrain.lightning.data.transforms import train_transform

CHATTER = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
]
"""What Lightning warns of in trainers like these."""


def pairs(inputs, labels, batch_size=4):
    """Batches of (inputs, labels) in order."""
    return DataLoader(TensorDataset(inputs, labels), batch_size=batch_size)


def vectors(length=16):
    """Batches of 4 vectors of 8 numbers with one of 4 labels, the same in every run."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(length, 8, generator=generator)
    return pairs(x, torch.randint(0, 4, (length,), generator=generator))


def make_body() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


class Stranger(pl.LightningModule):
    """A module that knows nothing of this package."""

    def __init__(self, body=None, lr=0.1):
        super().__init__()
        self.body: Any = make_body() if body is None else body
        self.lr = lr
        self.losses = []

    def forward(self, x):
        return self.body(x)

    def training_step(self, batch):
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.losses.append(loss.detach().clone())
        return loss

    def validation_step(self, batch):
        x, y = batch
        self.log("val/loss", F.cross_entropy(self(x), y))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class Probe(pl.Callback):
    """Writes down what `look(trainer, module)` gives in every training batch, before its step."""

    def __init__(self, look):
        self.look = look
        self.seen = []

    def on_before_backward(self, trainer, pl_module, loss):
        self.seen.append(self.look(trainer, pl_module))


def make_trainer(folder, *callbacks, plugins=(), accelerator="cpu", **settings) -> Any:
    """A trainer, on the CPU unless told, that writes nothing unasked. `settings` are Trainer's."""
    saves = any(isinstance(c, Checkpoint) for c in callbacks)
    settings = {"max_epochs": 1, "logger": False, "enable_checkpointing": saves, **settings}
    return pl.Trainer(
        accelerator=accelerator,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        callbacks=list(callbacks),
        plugins=[AtomicCheckpointIO(), *plugins],
        **settings,
    )


def every_step(folder):
    """A checkpoint of every optimizer step, as step=N.ckpt."""
    return ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)


def weights24(weight, **schedule):
    """Sparsity of every linear layer with 2:4 weights by `weight`."""
    return Sparsity(weight=weight, schedule=Schedule(**schedule))


def tiny_vit(drop_path=0.2, **options) -> Any:
    """16 tokens and a class token, 2 blocks, 32 features, on images of 8 pixels."""
    torch.manual_seed(0)
    shape = {"patch_size": 2, "embed_dim": 32, "depth": 2, "num_heads": 2}
    return build_network(
        "vit_tiny_patch16_224",
        img_size=8,
        num_classes=10,
        drop_path=drop_path,
        options=shape | options,
    )


class AugmentedDigits(ImageData):
    """`length` digits at 8 pixels under RandAugment and random erasing."""

    label = "augmented digits"

    def __init__(self, length=24, batch_size=4, seed=5):
        super().__init__(
            batch_size=batch_size,
            num_workers=0,
            img_size=8,
            num_classes=10,
            mean=(0.5,) * 3,
            std=(0.25,) * 3,
            seed=seed,
        )
        self.length = length

    def load(self):
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        pixels = (images.reshape(-1, 8, 8) * 15).astype("uint8")
        source = DigitSource(pixels[: self.length], labels[: self.length])
        augment = Augment(auto_augment="rand-m9-mstd0.5-inc1", reprob=0.25)
        transform = train_transform(augment, self.img_size, self.mean, self.std)
        train = SeededImages(source, transform, self.seed)
        plain = train_transform(Augment(), self.img_size, self.mean, self.std)
        return Splits(train, SeededImages(source, plain, self.seed), None, 10)


def make_classifier(mix=None, network=None, **optimizer):
    spec = AdamW(**{"lr": 1e-2, "warmup_epochs": 0.5, "warmup_lr": 1e-5, **optimizer})
    return Classifier(network or tiny_vit(), spec, mix or Mix(), num_classes=10)


def timm_vit():
    """A timm model of a stranger's, for images of 8 pixels."""
    torch.manual_seed(0)
    return timm.create_model(
        "vit_tiny_patch16_224",
        img_size=8,
        patch_size=4,
        embed_dim=16,
        depth=1,
        num_heads=2,
        num_classes=4,
    )
