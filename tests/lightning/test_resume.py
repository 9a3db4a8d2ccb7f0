"""A resumed run is the uninterrupted one, bit by bit, with everything random switched on."""

from dataclasses import replace

import pytest
import pytorch_lightning as pl
import torch
from lightning_helpers import (
    CHATTER,
    AugmentedDigits,
    every_step,
    make_classifier,
    make_trainer,
    tiny_vit,
)
from pytorch_lightning.callbacks import ModelCheckpoint

from sparsetrain import (
    FP8,
    SRSTE,
    SSTE,
    STE,
    Activation24,
    ActivationDropout24,
    Block,
    LearnedScores,
    Movement,
    Part,
    RigL,
    Schedule,
    SparsifyModel,
    Sparsity,
    Unstructured,
)
from sparsetrain.lightning import EMA, MaskSnapshots, Mix, SparsityMonitor, StepSeed
from sparsetrain.nn import sparse_state

pytestmark = CHATTER

# 24 images in batches of 4, two batches a step: 3 steps an epoch, 12 in all.
# Steps 0 dense, 1–8 sparse with masks of steps 0, 1, 5; 9–11 dense.
SCHEDULE = Schedule(dense_warmup=0.1, dense_tail=0.25, mask_every=5)
MIX = Mix(label_smoothing=0.1, mixup=0.8, cutmix=1.0)

METHODS = {
    "sr_ste": Sparsity(("*mlp*",), weight=SRSTE(mvue=True, decay=1e-2), schedule=SCHEDULE),
    "s_ste": Sparsity(("*mlp*",), weight=SSTE(mvue=True), schedule=SCHEDULE),
    "all24": Sparsity(("*mlp*",), weight=STE(), activation=Activation24(), schedule=SCHEDULE),
    "fp8": Sparsity(("*mlp*",), weight=SRSTE(), format=FP8(), schedule=SCHEDULE),
    "mixed": Sparsity(
        parts={
            "mlp": Part(("*mlp*",), weight=RigL(), pattern=Unstructured(0.5)),
            "qkv": Part(("*qkv",), weight=LearnedScores(), pattern=Block(8, 8, 0.5)),
            "proj": Part(("*attn.proj",), weight=Movement(), pattern=Block(8, 8, 0.5)),
        },
        schedule=replace(SCHEDULE, mask_every=2, ramp=0.3),
    ),
    "dropout24": Sparsity(
        ("*mlp*",), weight=None, activation=ActivationDropout24(), schedule=SCHEDULE
    ),
}
OTHERS = [method for method in METHODS if method != "sr_ste"]


class Recorder(pl.Callback):
    """The loss of every batch, the learning rate of every step."""

    def __init__(self):
        self.losses, self.rates = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, *_):
        self.losses.append(float(outputs["loss"]))
        self.rates.append(trainer.optimizers[0].param_groups[-1]["lr"])


def run(folder, sparsity, resume=None, *, extra=(), seed=3, weights_only=None):
    """Train; returns (recorder, module, trainer). A resumed run starts with other weights and
    other random numbers."""
    dropout = {} if sparsity.activation else {"proj_drop_rate": 0.1}
    network = tiny_vit(attn_drop_rate=0.1, **dropout)
    if resume is not None:
        for parameter in network.parameters():
            parameter.data.add_(1.0)
        torch.manual_seed(99)
    module = make_classifier(MIX, network, layer_decay=0.9)
    recorder = Recorder()
    trainer = make_trainer(
        folder,
        SparsifyModel(sparsity),
        StepSeed(seed),
        MaskSnapshots(),
        SparsityMonitor(),
        recorder,
        EMA(decay=0.8),
        *(extra or [every_step(folder / "saved")]),
        max_epochs=4,
        accumulate_grad_batches=2,
        gradient_clip_val=1.0,
        log_every_n_steps=1,
    )
    data = AugmentedDigits()
    trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=weights_only)
    return recorder, module, trainer


def assert_same(whole, rest, batches_done):
    """`rest` (recorder, module, trainer) went on exactly where `whole` was after some batches."""
    (recorder, module, trainer), (later, resumed, again) = whole, rest
    assert later.losses == recorder.losses[batches_done:]
    assert later.rates == recorder.rates[batches_done:]
    for name, value in module.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    masks, masks_again = sparse_state(module), sparse_state(resumed)
    for name, layer in masks.items():
        for key, value in layer.items():
            other = masks_again[name][key]
            same = torch.equal(other, value) if torch.is_tensor(value) else other == value
            assert same, (name, key)
    moments, moments_again = (t.optimizers[0].state_dict()["state"] for t in (trainer, again))
    for key, state in moments.items():
        for name, value in state.items():
            assert torch.equal(moments_again[key][name], value), (key, name)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The folder of a run with SR-STE, and what `run` returned; every step is saved."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    return folder, run(folder, METHODS["sr_ste"])


# In the middle of the second epoch while masks are three steps old; at an epoch's end; in the
# dense tail.
STEPS = (4, 6, 10)


def test_a_run_resumed_in_any_phase_ends_in_the_same_bits(uninterrupted):
    folder, whole = uninterrupted
    assert len(set(whole[0].losses)) == 24
    for step in STEPS:
        rest = run(folder, METHODS["sr_ste"], folder / "saved" / f"step={step}.ckpt")
        assert_same(whole, rest, 2 * step)


def assert_resumes(folder, method, steps):
    whole = run(folder, METHODS[method])
    for step in steps:
        rest = run(folder, METHODS[method], folder / "saved" / f"step={step}.ckpt")
        assert_same(whole, rest, 2 * step)


@pytest.mark.parametrize(
    "method",
    ["all24", *(pytest.param(m, marks=pytest.mark.slow) for m in ("s_ste", "fp8", "mixed"))],
)
def test_a_run_of_another_method_resumed_ends_in_the_same_bits(tmp_path, method):
    assert_resumes(tmp_path, method, STEPS[:1])


@pytest.mark.slow
@pytest.mark.parametrize("method", OTHERS)
def test_a_run_of_another_method_resumed_later_ends_in_the_same_bits(tmp_path, method):
    assert_resumes(tmp_path, method, STEPS[1:])


@pytest.mark.slow
def test_another_seed_gives_other_losses_from_the_first_batch_on(tmp_path):
    one, other = (run(tmp_path, METHODS["sr_ste"], seed=seed)[0].losses for seed in (3, 4))
    assert all(a != b for a, b in zip(one, other, strict=True))


def test_a_checkpoint_resumes_the_same_when_loaded_as_tensors_and_plain_values_only(uninterrupted):
    folder, whole = uninterrupted
    path = folder / "saved" / "step=7.ckpt"
    assert_same(whole, run(folder, METHODS["sr_ste"], path, weights_only=True), 14)


def test_a_checkpoint_written_after_validation_resumes_the_same(tmp_path):
    def best():
        return [
            ModelCheckpoint(
                tmp_path / "best", filename="{epoch}", monitor="val/top1", save_top_k=-1
            )
        ]

    sparsity = METHODS["sr_ste"]
    whole = run(tmp_path, sparsity, extra=best())
    rest = run(tmp_path, sparsity, tmp_path / "best" / "epoch=1.ckpt", extra=best())
    assert_same(whole, rest, 12)


def test_a_step_cut_short_by_an_exception_is_trained_again(tmp_path, uninterrupted):
    class Cut(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 4:
                raise KeyError("power cut")

    def saver():
        return ModelCheckpoint(tmp_path / "saved", save_on_exception=True, every_n_epochs=99)

    sparsity = METHODS["sr_ste"]
    _, whole = uninterrupted
    with pytest.raises(KeyError, match="power cut"):
        run(tmp_path, sparsity, extra=[saver(), Cut()])
    [path] = (tmp_path / "saved").glob("*.ckpt")
    assert_same(whole, run(tmp_path, sparsity, path, extra=[saver()]), 8)


def test_masks_before_training_survive_a_resume(uninterrupted):
    folder, (_, _, trainer) = uninterrupted
    _, _, again = run(folder, METHODS["sr_ste"], folder / "saved" / "step=10.ckpt")
    first, second = (
        next(c for c in t.callbacks if isinstance(c, MaskSnapshots)) for t in (trainer, again)
    )
    assert first.before.keys() == second.before.keys()
    assert all(torch.equal(second.before[name], mask) for name, mask in first.before.items())
    assert any(
        not torch.equal(mask, second.before[name])
        for name, mask in second.now(again.lightning_module).items()
    )


def test_a_checkpoint_of_another_sparsity_is_refused_naming_the_layers(uninterrupted):
    folder, _ = uninterrupted
    other = Sparsity(("*fc1",), weight=STE())
    with pytest.raises(ValueError, match=r"differ in .*blocks\.0\.mlp\.fc2"):
        run(folder, other, folder / "saved" / "step=4.ckpt")
