"""Random numbers as a pure function of the step."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch


class StepSeed(pl.Callback):
    """Seed Python, NumPy and PyTorch from (seed, rank, epoch, batch) before every training
    batch.

    So dropout, stochastic depth, mixup and MVUE draw the same numbers in a resumed run as in
    the uninterrupted one, whatever ran in between.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Not `total_batch_idx`: it counts a batch again that an exception cut short.
        place = (self.seed, trainer.global_rank, trainer.current_epoch, batch_idx)
        words = np.random.SeedSequence(place).generate_state(3)
        random.seed(int(words[0]))
        np.random.seed(int(words[1]))
        torch.manual_seed(int(words[2]))
