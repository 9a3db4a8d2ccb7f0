"""Image classification: the LightningModule of the recipes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.data.mixup import Mixup
from timm.optim import create_optimizer_v2  # pyright: ignore[reportPrivateImportUsage]
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics.classification import MulticlassAccuracy

from sparsetrain.lightning.flavour import GradClipAlgorithmType, MixedPrecision, Precision, pl


@dataclass(frozen=True)
class AdamW:
    """AdamW with a linear warm-up and a cosine decay, per optimizer step.

    lr: peak learning rate at a global batch of `lr_batch` images, scaled linearly with the
        global batch; with lr_batch None it is used as it is.
    weight_decay: not applied to biases, norms and what the model names (`no_weight_decay`).
    warmup_epochs, warmup_lr: linear from warmup_lr to lr; min_lr: where the cosine that follows
        ends. Both are scaled as lr is.
    layer_decay: factor per block from the head down, None for one rate everywhere.
    """

    lr: float
    lr_batch: int | None = None
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    warmup_epochs: float = 5.0
    warmup_lr: float = 1e-6
    min_lr: float = 1e-5
    layer_decay: float | None = None


@dataclass(frozen=True)
class Mix:
    """Label smoothing, mixup (Zhang et al. 2018) and cutmix (Yun et al. 2019), as timm's.

    mixup, cutmix: alpha of the Beta distribution, 0 for off. prob: chance that a batch is
    mixed; switch_prob: chance of cutmix where both are on. off_after: the share of the optimizer
    steps that mix (timm's mixup_off_epoch); after it only labels are smoothed.
    """

    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    prob: float = 1.0
    switch_prob: float = 0.5
    off_after: float = 1.0

    @property
    def active(self) -> bool:
        return self.prob > 0 and (self.mixup > 0 or self.cutmix > 0)


class Classifier(pl.LightningModule):
    """A network trained by cross-entropy. Batches are (images [B, 3, H, W], labels [B] int64)."""

    def __init__(self, network: nn.Module, optimizer: AdamW, mix: Mix, num_classes: int) -> None:
        super().__init__()
        self.network = network
        self.adamw = optimizer
        self.mix = mix
        self.mixup = _make_mixup(mix, num_classes) if mix.active else None
        self.mixed_steps = math.inf
        self.top1 = MulticlassAccuracy(num_classes, average="micro")
        self.top5 = MulticlassAccuracy(num_classes, average="micro", top_k=min(5, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)

    def to_compile(self) -> list[nn.Module]:
        """What torch.compile makes one graph of, each by itself."""
        return [self.network]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        if self.mixup is not None and self.trainer.global_step < self.mixed_steps:
            if len(images) % 2:
                raise ValueError(
                    f"data.batch_size={len(images)}: mixup and cutmix mix pairs; make it even, "
                    "or set mix.mixup=0 mix.cutmix=0"
                )
            images, targets = self.mixup(images, labels)
            loss = F.cross_entropy(self(images), targets.to(images.dtype))
        else:
            smoothing = self.mix.label_smoothing
            loss = F.cross_entropy(self(images), labels, label_smoothing=smoothing)
        self._log_step(loss.detach())
        return loss

    def _log_step(self, loss: Tensor) -> None:
        """Log in the steps that loggers write, and in the last of an epoch, for its row: a `log`
        costs the host as much as some layers. Lightning waits for the device for `prog_bar`, for
        `sync_dist` (a barrier each time) and for numbers, which it copies to the device."""
        trainer: Any = self.trainer
        if trainer._logger_connector.should_update_logs:
            loss = trainer.strategy.reduce(loss.clone(), reduce_op="mean")
        elif not trainer.is_last_batch and trainer.global_step + 1 != trainer.max_steps:
            return
        self.log("train/loss", loss)
        self.log("train/lr", torch.tensor(trainer.optimizers[0].param_groups[-1]["lr"]))

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        logits = self(images)
        self.top1(logits, labels)
        self.top5(logits, labels)
        loss = F.cross_entropy(logits.float(), labels)
        size = len(labels)
        self.log("val/loss", loss, on_epoch=True, sync_dist=True, batch_size=size)
        self.log("val/top1", self.top1, on_epoch=True, prog_bar=True, batch_size=size)
        self.log("val/top5", self.top5, on_epoch=True, batch_size=size)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """As Lightning's, for fused optimizers in bf16-mixed too: it refuses them, as if they
        unscaled gradients themselves, which they only do for a GradScaler."""
        plugin = self.trainer.precision_plugin
        if gradient_clip_val and isinstance(plugin, MixedPrecision) and plugin.scaler is None:
            algorithm = GradClipAlgorithmType(gradient_clip_algorithm or GradClipAlgorithmType.NORM)
            Precision.clip_gradients(plugin, optimizer, gradient_clip_val, algorithm)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def configure_optimizers(self) -> Any:
        trainer, spec = self.trainer, self.adamw
        total = trainer.estimated_stepping_batches
        if not math.isfinite(total):
            raise ValueError("trainer.max_epochs=-1: the cosine schedule needs an end; set it")
        total = int(total)
        if self.mix.off_after < 1:
            self.mixed_steps = self.mix.off_after * total
        warmup = min(round(spec.warmup_epochs * self._steps_per_epoch()), total)
        if trainer.ckpt_path is not None or trainer.strategy.restore_checkpoint_after_setup:
            # To count the steps Lightning has made the training loader, before it restores where
            # the run stands; it has to make it again there.
            trainer.fit_loop._combined_loader = None
        factor = 1.0 if spec.lr_batch is None else self._global_batch() / spec.lr_batch
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        optimizer = create_optimizer_v2(
            self.network,
            opt="adamw",
            lr=spec.lr * factor,
            weight_decay=spec.weight_decay,
            betas=tuple(spec.betas),
            eps=spec.eps,
            layer_decay=spec.layer_decay,
            # Under a GradScaler fused AdamW unscales by itself, and gradients cannot be clipped.
            fused=self.device.type == "cuda" and not scaled,
        )
        scheduler = CosineLRScheduler(
            optimizer,
            t_initial=max(total - warmup, 1),
            lr_min=spec.min_lr * factor,
            warmup_t=warmup,
            warmup_lr_init=spec.warmup_lr * factor,
            warmup_prefix=True,
            t_in_epochs=False,
        )
        scheduler.step_update(trainer.global_step)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        scheduler.step_update(self.trainer.global_step)

    def _steps_per_epoch(self) -> int:
        trainer = self.trainer
        trainer.fit_loop.setup_data()
        batches = trainer.num_training_batches
        if not math.isfinite(batches):
            raise ValueError(
                f"optimizer.warmup_epochs={self.adamw.warmup_epochs}: the training data has no "
                "length, so an epoch has none; set trainer.limit_train_batches"
            )
        return math.ceil(batches / trainer.accumulate_grad_batches)

    def _global_batch(self) -> int:
        trainer = self.trainer
        datamodule: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        per_process = getattr(datamodule, "batch_size", None)
        if per_process is None:
            raise ValueError(
                f"optimizer.lr_batch={self.adamw.lr_batch}: the size of a batch is read off the "
                "data module's batch_size, and there is none; set optimizer.lr_batch=null"
            )
        return per_process * trainer.world_size * trainer.accumulate_grad_batches


def _make_mixup(mix: Mix, num_classes: int) -> Mixup:
    return Mixup(
        mixup_alpha=mix.mixup,
        cutmix_alpha=mix.cutmix,
        prob=mix.prob,
        switch_prob=mix.switch_prob,
        label_smoothing=mix.label_smoothing,
        num_classes=num_classes,
    )
