"""The classifier: parameter groups, learning rates, losses, accuracy."""

import math
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from lightning_helpers import (
    CHATTER,
    AugmentedDigits,
    make_classifier,
    make_trainer,
    pairs,
    tiny_vit,
)
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from sparsetrain.lightning import Mix

pytestmark = CHATTER


class Rates(pl.Callback):
    """The learning rate that every optimizer step uses."""

    def __init__(self):
        self.seen = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.seen.append(optimizer.param_groups[-1]["lr"])


def groups_of(module, folder, **settings):
    """The optimizer's group of each parameter, by name, after one step."""
    trainer = make_trainer(folder, max_steps=1, **settings)
    trainer.fit(module, datamodule=AugmentedDigits())
    groups = {id(p): g for g in trainer.optimizers[0].param_groups for p in g["params"]}
    return {name: groups[id(p)] for name, p in module.network.named_parameters()}


def test_biases_norms_and_positions_have_no_weight_decay_and_the_rest_has(tmp_path):
    groups = groups_of(make_classifier(weight_decay=0.3), tmp_path)
    free = {name for name, group in groups.items() if group["weight_decay"] == 0.0}
    assert free == {
        name
        for name in groups
        if name.endswith("bias") or "norm" in name or name in ("pos_embed", "cls_token")
    }
    assert {groups[name]["weight_decay"] for name in groups.keys() - free} == {0.3}


def test_layer_decay_halves_the_rate_of_every_block_from_the_head_down(tmp_path):
    groups = groups_of(make_classifier(layer_decay=0.5, warmup_epochs=0), tmp_path)
    names = ["head.weight", "blocks.1.mlp.fc1.weight", "blocks.0.attn.qkv.bias", "pos_embed"]
    rates = [groups[name]["lr"] for name in names]
    assert rates == pytest.approx([rates[0], rates[0] / 2, rates[0] / 4, rates[0] / 8])


def cosine(step, *, warmup, total, peak, start, end):
    if step < warmup:
        return start + (peak - start) * step / warmup
    return end + (peak - end) * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2


@pytest.mark.parametrize(
    ("lr_batch", "processes", "factor"), [(None, 1, 1.0), (16, 1, 0.5), (16, 2, 1.0)]
)
def test_rates_warm_up_to_the_scaled_peak_and_fall_as_a_cosine(
    tmp_path, monkeypatch, lr_batch, processes, factor
):
    monkeypatch.setattr(pl.Trainer, "world_size", processes)
    module = make_classifier(
        lr=1e-2, lr_batch=lr_batch, warmup_epochs=1, warmup_lr=1e-4, min_lr=1e-3
    )
    rates = Rates()
    trainer = make_trainer(tmp_path, rates, max_epochs=4, accumulate_grad_batches=2)
    # Batches of 4 on each process, 6 of them and so 3 steps an epoch.
    trainer.fit(module, datamodule=AugmentedDigits(length=24 * processes))
    expected = [
        factor * cosine(step, warmup=3, total=12, peak=1e-2, start=1e-4, end=1e-3)
        for step in range(12)
    ]
    assert rates.seen == pytest.approx(expected)
    assert rates.seen[3] == pytest.approx(factor * 1e-2)
    assert trainer.optimizers[0].param_groups[-1]["lr"] == pytest.approx(factor * 1e-3)


def test_warm_up_counts_epochs_where_the_run_is_given_in_steps(tmp_path):
    rates = Rates()
    module = make_classifier(lr=1e-2, warmup_epochs=1, warmup_lr=1e-4, min_lr=1e-3)
    trainer = make_trainer(tmp_path, rates, max_epochs=-1, max_steps=8, accumulate_grad_batches=2)
    trainer.fit(module, datamodule=AugmentedDigits())
    assert rates.seen == pytest.approx(
        [cosine(s, warmup=3, total=8, peak=1e-2, start=1e-4, end=1e-3) for s in range(8)]
    )


def test_a_run_without_an_end_is_refused(tmp_path):
    trainer = make_trainer(tmp_path, max_epochs=-1)
    with pytest.raises(ValueError, match=r"trainer\.max_epochs=-1: the cosine schedule needs"):
        trainer.fit(make_classifier(), datamodule=AugmentedDigits())


def test_warm_up_in_epochs_of_data_without_a_length_is_refused(tmp_path):
    class Stream(IterableDataset):
        def __iter__(self):
            yield torch.zeros(3, 8, 8), 0

    trainer = make_trainer(tmp_path, max_epochs=-1, max_steps=3)
    with pytest.raises(ValueError, match=r"optimizer\.warmup_epochs=0\.5: .* has no length"):
        trainer.fit(make_classifier(), DataLoader(Stream()))


def test_scaling_by_a_batch_size_that_nobody_knows_is_refused(tmp_path):
    images = pairs(torch.zeros(4, 3, 8, 8), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"optimizer\.lr_batch=256: .* set optimizer\.lr_batch"):
        make_trainer(tmp_path).fit(make_classifier(lr_batch=256), images)


class FirstLoss(pl.Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        logits = pl_module(batch[0])
        self.expected = F.cross_entropy(logits, batch[1], label_smoothing=0.1)

    def on_before_backward(self, trainer, pl_module, loss):
        self.got = loss


@pytest.mark.parametrize("mixup", [0.0, 0.8])
def test_label_smoothing_is_torchs_with_and_without_mixing(tmp_path, mixup):
    module = make_classifier(Mix(label_smoothing=0.1, mixup=mixup), tiny_vit(drop_path=0.0))
    if module.mixup is not None:
        module.mixup.mixup_enabled = False  # smoothed labels alone
    look = FirstLoss()
    trainer = make_trainer(tmp_path, look, max_steps=1)
    trainer.fit(module, datamodule=AugmentedDigits())
    torch.testing.assert_close(look.got, look.expected)


class Mixed(pl.Callback):
    """Counts the steps that mix."""

    def on_train_start(self, trainer, pl_module: Any):
        self.steps, mixup = [], pl_module.mixup

        def counted(images, labels):
            self.steps.append(trainer.global_step)
            return mixup(images, labels)

        pl_module.mixup = counted


@pytest.mark.parametrize(("off_after", "expected"), [(1.0, 4), (0.5, 2), (0.0, 0)])
def test_mixing_ends_after_its_share_of_the_steps(tmp_path, off_after, expected):
    module = make_classifier(Mix(label_smoothing=0.1, mixup=0.8, off_after=off_after))
    mixed = Mixed()
    make_trainer(tmp_path, mixed, max_steps=4).fit(module, datamodule=AugmentedDigits())
    assert mixed.steps == list(range(expected))


def test_mixup_of_an_odd_batch_says_how_to_go_on(tmp_path):
    with pytest.raises(
        ValueError, match=r"data\.batch_size=3: mixup .* mix\.mixup=0 mix\.cutmix=0"
    ):
        make_trainer(tmp_path).fit(
            make_classifier(Mix(cutmix=1.0)), datamodule=AugmentedDigits(batch_size=3)
        )


@pytest.mark.parametrize(
    ("mix", "active"),
    [(Mix(), False), (Mix(mixup=0.8), True), (Mix(cutmix=1.0), True), (Mix(1, 1, 1, 0.0), False)],
)
def test_mixing_is_on_where_a_mix_and_a_chance_for_it_are(mix, active):
    assert mix.active is active
    assert (make_classifier(mix).mixup is not None) is active


class Told(nn.Module):
    """Logits 0, 1, …, 9 in steps of one, turned so that the first pixel is the best class."""

    def forward(self, images):
        best = images[:, 0, 0, 0].long()
        return torch.stack([torch.arange(10.0).roll(int(b) + 1) for b in best])


def test_accuracy_is_exact_over_a_smaller_last_batch(tmp_path):
    # 10 images: 7 right, one whose label is second, one fifth and one sixth.
    best = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6, 6, 6])
    labels = torch.tensor([3, 1, 4, 1, 5, 9, 2, 5, 2, 1])
    images = best.float()[:, None, None, None].expand(10, 3, 2, 2)
    data = pairs(images, labels)
    module = make_classifier(network=Told())
    (metrics,) = make_trainer(tmp_path).validate(module, data, verbose=False)
    assert metrics["val/top1"] == pytest.approx(0.7)
    assert metrics["val/top5"] == pytest.approx(0.9)
    loss = F.cross_entropy(Told()(images), labels)
    assert metrics["val/loss"] == pytest.approx(float(loss), rel=1e-6)


class Logged(pl.Callback):
    """The steps, from 1, after which the loss that callbacks find is that of the step."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs: Any, batch, batch_idx):
        if trainer.callback_metrics.get("train/loss") == outputs["loss"]:
            self.seen.append(trainer.global_step)


def test_the_loss_is_logged_every_so_many_steps_and_at_the_end_of_an_epoch_and_of_the_run(tmp_path):
    logged = Logged()
    trainer = make_trainer(tmp_path, logged, max_epochs=2, max_steps=9, log_every_n_steps=4)
    trainer.fit(make_classifier(), datamodule=AugmentedDigits())
    assert trainer.num_training_batches == 6
    assert logged.seen == [4, 6, 8, 9]


class Norms(pl.Callback):
    """The norm of all gradients that every optimizer step uses."""

    def __init__(self):
        self.seen = []

    def on_train_start(self, trainer, pl_module: Any):
        trainer.optimizers[0].register_step_post_hook(lambda *_: self.look(pl_module))

    def look(self, module):
        grads = [p.grad for p in module.parameters() if p.grad is not None]
        self.seen.append(float(torch.nn.utils.get_total_norm(grads)))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("algorithm", [None, "norm", "value"])
def test_gradients_of_any_optimizer_are_clipped(tmp_path, fused, precision, algorithm):
    module, norms = make_classifier(), Norms()
    module.configure_optimizers = lambda: torch.optim.AdamW(module.parameters(), 1e-3, fused=fused)
    clip = {"gradient_clip_val": 1e-3, "gradient_clip_algorithm": algorithm}
    trainer = make_trainer(tmp_path, norms, max_steps=2, precision=precision, **clip)
    trainer.fit(module, datamodule=AugmentedDigits())
    if algorithm == "value":
        assert all(p.grad.abs().max() <= 1e-3 for p in module.parameters() if p.grad is not None)
        assert min(norms.seen) > 2e-3
    else:
        assert norms.seen == pytest.approx([1e-3, 1e-3], rel=1e-2)


@pytest.mark.gpu
def test_clipping_works_under_a_grad_scaler(tmp_path):
    module = make_classifier()
    trainer = pl.Trainer(
        accelerator="gpu",
        devices=1,
        precision="16-mixed",
        gradient_clip_val=1.0,
        max_steps=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, datamodule=AugmentedDigits())
    assert trainer.global_step == 2
