"""The average of the weights over the steps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from sparsetrain.lightning.flavour import WeightAveraging, package_of, pl


class EMA(WeightAveraging):
    """Exponential moving average of the weights, which is what is validated and saved.

    decay: of the average, per optimizer step; it begins as the weights after the first one.

    The average of Lightning's `EMAWeightAveraging(decay, use_buffers=False)` up to rounding, in
    the same checkpoints. That one asks the device twice a step how many it has averaged, which
    waits for all that is queued there, and runs four kernels for each parameter.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self._blend = get_ema_multi_avg_fn(decay)
        super().__init__(use_buffers=False, multi_avg_fn=self._blend)
        self._begun = False
        self._pairs: tuple[list[Tensor], list[Tensor]] = [], []  # the averages, the weights
        self._buffers: list[Tensor] = []  # of the average

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        # Of the package that the module is of, which it is asked about.
        package_of(pl_module).callbacks.WeightAveraging.setup(self, trainer, pl_module, stage)
        if stage == "fit":
            self._latest_update_step = 0  # was the last run's; a checkpoint's comes after this

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert self._average_model is not None
        # From the average, which a checkpoint of Lightning's callback holds too.
        self._begun = bool(self._average_model.n_averaged > 0)
        # Once: walking through a module takes the host longer than the averaging.
        average = self._average_model.module
        self._pairs = list(average.parameters()), list(pl_module.parameters())
        _check_dtypes(pl_module, self._pairs[0])
        self._buffers = list(average.buffers())

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if trainer.global_step > self._latest_update_step:
            self._latest_update_step = trainer.global_step
            self._average(pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Steps alone count."""

    @torch.no_grad()
    def _average(self, pl_module: pl.LightningModule) -> None:
        assert self._average_model is not None
        averages, weights = self._pairs
        if self._begun:
            self._blend(averages, weights, 0)
        else:
            _copy(averages, weights)
            self._begun = True
        if self._buffers:
            _copy(self._buffers, pl_module.buffers())
        self._average_model.n_averaged += 1


def _check_dtypes(module: nn.Module, averages: list[Tensor]) -> None:
    """Refuse weights that Lightning converted after it had copied them for the average."""
    for (name, weight), average in zip(module.named_parameters(), averages, strict=True):
        if weight.dtype != average.dtype:
            raise ValueError(
                f"EMA: {name} is {weight.dtype} and its average {average.dtype}: train with "
                "precision bf16-mixed or 32-true, or leave EMA out (fit: callbacks=default)"
            )


def _copy(targets: Iterable[Tensor], sources: Iterable[Tensor]) -> None:
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)
