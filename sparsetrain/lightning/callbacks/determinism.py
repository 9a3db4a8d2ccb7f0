"""Random numbers as a pure function of the step."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from sparsetrain.lightning.flavour import Callback, pl


class StepSeed(Callback):
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
        _seed_torch(int(words[2]), pl_module.device)


def _seed_torch(seed: int, device: torch.device) -> None:
    """`torch.manual_seed`, of the CPU and the device alone where that is CUDA or the CPU: for each
    kind of device that was never used it writes down the whole call stack."""
    if device.type not in ("cpu", "cuda"):
        torch.manual_seed(seed)
        return
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)
