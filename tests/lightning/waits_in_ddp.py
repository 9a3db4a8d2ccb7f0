"""Run by torchrun on two GPUs: fails if a batch between the logged ones waits for its GPU."""

import tempfile

import pytorch_lightning as pl
import torch
from lightning_helpers import AugmentedDigits, make_classifier
from pytorch_lightning.loggers import CSVLogger
from test_waits_on_gpu import Strict

from sparsetrain import SRSTE, Schedule, SparsifyModel, Sparsity
from sparsetrain.lightning import EMA, SaveOnInterrupt, SparsityMonitor, StepSeed, StopOnNonFinite
from sparsetrain.lightning.ddp import register_ddp

register_ddp()
folder = tempfile.mkdtemp()
sparsity = Sparsity(("*mlp*",), weight=SRSTE(), schedule=Schedule(mask_every=40))
trainer = pl.Trainer(
    accelerator="gpu",
    devices=2,
    strategy="ddp",
    precision="bf16-mixed",
    max_epochs=1,
    callbacks=[
        Strict(3, 11),
        SparsifyModel(sparsity),
        StepSeed(0),
        StopOnNonFinite(),
        SparsityMonitor(),
        EMA(decay=0.9),
        SaveOnInterrupt(folder),
    ],
    logger=CSVLogger(folder),
    log_every_n_steps=12,
    gradient_clip_val=1.0,
    enable_model_summary=False,
    use_distributed_sampler=False,
    num_sanity_val_steps=0,
    default_root_dir=folder,
)
trainer.fit(make_classifier(), datamodule=AugmentedDigits(length=96))
assert trainer.global_step == 12, trainer.global_step
torch.distributed.barrier()
