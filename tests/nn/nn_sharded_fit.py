"""`fit`'s classifier in shards on two CPU processes, trained as `trainer.strategy=fsdp2` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from lightning_helpers import AugmentedDigits, make_trainer, tiny_vit, weights24
from nn_ranks import N_RANKS, launched
from torch import nn

import sparsetrain as st
from sparsetrain.lightning import AdamW, Mix, StepSeed
from sparsetrain.lightning.fsdp2 import ShardedClassifier, fsdp2_strategy

SPARSE = weights24(st.SRSTE(decay=0.1), dense_tail=0.5)
"""Three of six steps are sparse."""


class Watch(pl.Callback):
    """Keeps the losses, and whether blocks were compiled in training and in validation."""

    def __init__(self) -> None:
        self.losses, self.trained, self.validated = [], [], []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.losses.append(float(outputs["loss"]))
        self.trained.append(_compiled(pl_module.network))

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.validated.append(_compiled(pl_module.network))


def _compiled(network: Any) -> list[bool]:
    return [m._compiled_call_impl is not None for m in (*network.blocks, network)]


def classifier(network: nn.Module | None = None) -> ShardedClassifier:
    spec = AdamW(lr=1e-2, warmup_epochs=0.5, warmup_lr=1e-5)
    return ShardedClassifier(tiny_vit(depth=3) if network is None else network, spec, Mix(), 10)


def fit(
    port: str, folder: Path, module: pl.LightningModule, *callbacks: pl.Callback, **settings: Any
) -> Watch:
    """Train six steps on this rank's half of the digits. Returns what was seen."""
    watch = Watch()
    with launched(port):
        trainer = make_trainer(
            folder,
            st.SparsifyModel(SPARSE, engine="masked"),
            *callbacks,
            StepSeed(0),
            watch,
            **{"max_epochs": 2, "devices": N_RANKS, "strategy": fsdp2_strategy(N_RANKS)} | settings,
        )
        trainer.fit(module, datamodule=AugmentedDigits())
    return watch
