"""The average of the weights, alone and around sparse layers."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning_helpers import (
    CHATTER,
    Probe,
    Stranger,
    every_step,
    make_body,
    make_trainer,
    vectors,
    weights24,
)
from pytorch_lightning.callbacks import EMAWeightAveraging
from torch import nn

from sparsetrain import STE, SparsifyModel, density
from sparsetrain.lightning import EMA
from sparsetrain.ops import mask24, select24

pytestmark = CHATTER
DECAY = 0.5


def ema():
    return EMA(decay=DECAY)


def lightnings():
    return EMAWeightAveraging(decay=DECAY, use_buffers=False)


def with_buffers():
    return nn.Sequential(*make_body(), nn.BatchNorm1d(4))


def averaged(callback) -> Any:
    return callback._average_model.module


def master(trainer, module):
    return module.body[0].weight.detach().clone()


@pytest.mark.parametrize("ema_first", [False, True])
def test_the_average_is_of_the_master_weights_in_either_order_of_callbacks(tmp_path, ema_first):
    sparsify, average, probe = SparsifyModel(weights24(STE())), ema(), Probe(master)
    first = [average, sparsify] if ema_first else [sparsify, average]
    module = Stranger()
    make_trainer(tmp_path, *first, probe, every_step(tmp_path / "saved")).fit(module, vectors())
    last = torch.load(tmp_path / "saved" / "step=4.ckpt")["current_model_state"]["body.0.weight"]
    expected = probe.seen[1]  # the average begins as the weights after the first step
    for weight in [*probe.seen[2:], last]:
        expected = DECAY * expected + (1 - DECAY) * weight
    torch.testing.assert_close(module.body[0].weight.detach(), expected)
    assert module.body[0].weight.count_nonzero() == module.body[0].weight.numel()
    assert density(module) == 0.5


@pytest.mark.parametrize("frozen", [False, True])
def test_averaged_weights_are_validated_under_their_own_masks_or_frozen_ones(tmp_path, frozen):
    class Looks(Stranger):
        def on_validation_start(self):
            self.masters, self.kept = self.body[0].weight.clone(), self.body[0].mask.clone()
            self.average = averaged(average).body[0].weight.clone()
            self.own = select24(self.average, "transposable")

        def validation_step(self, batch):
            self.output = self.body[0](batch[0])
            used = mask24(self.average, self.kept if frozen else self.own)
            self.expected = F.linear(batch[0], used, self.body[0].bias)

    module, average = Looks(lr=1.0), ema()
    schedule = {"freeze_at": 0.0} if frozen else {"mask_every": 99}
    trainer = make_trainer(tmp_path, SparsifyModel(weights24(STE(), **schedule)), average)
    trainer.fit(module, vectors(), vectors())
    assert not torch.equal(module.kept, module.own)
    assert not torch.equal(module.average, module.masters)
    torch.testing.assert_close(module.output, module.expected)


def test_layers_that_configure_model_makes_are_averaged_as_well(tmp_path):
    class Late(Stranger):
        def __init__(self):
            super().__init__()
            self.body = None

        def configure_model(self):
            if self.body is None:
                self.body = make_body()

    module = Late()
    trainer = make_trainer(tmp_path, SparsifyModel(weights24(STE())), ema())
    with pytest.warns(UserWarning, match="overrides the configure_model"):
        trainer.fit(module, vectors())
    plain = Stranger()
    make_trainer(tmp_path, SparsifyModel(weights24(STE())), ema()).fit(plain, vectors())
    assert torch.equal(module.body[0].weight, plain.body[0].weight)
    assert density(module) == 0.5


def test_a_second_run_is_averaged_from_its_first_step(tmp_path):
    average, alone = ema(), ema()
    make_trainer(tmp_path, average).fit(Stranger(), vectors())
    modules = Stranger(), Stranger()
    for module, callback in zip(modules, (average, alone), strict=True):
        make_trainer(tmp_path, callback).fit(module, vectors())
    first, second = (module.body[0].weight for module in modules)
    assert torch.equal(first, second)
    assert not torch.equal(first, Stranger().body[0].weight)


def test_it_is_the_average_of_lightnings_callback_in_the_same_checkpoint(tmp_path):
    for name, average in (("ours", ema()), ("theirs", lightnings())):
        saved = every_step(tmp_path / name)
        make_trainer(tmp_path, average, saved).fit(Stranger(body=with_buffers()), vectors())
    for step in (1, 2, 4):
        ours, theirs = (
            torch.load(tmp_path / name / f"step={step}.ckpt") for name in ("ours", "theirs")
        )
        assert ours.keys() == theirs.keys()
        assert ours["averaging_state"] == theirs["averaging_state"] == {"n_averaged": step}
        for key in ("state_dict", "current_model_state"):
            for name, value in theirs[key].items():
                torch.testing.assert_close(ours[key][name], value)
    assert not torch.equal(
        ours["state_dict"]["body.0.weight"], ours["current_model_state"]["body.0.weight"]
    )


def test_it_goes_on_from_a_checkpoint_of_lightnings_callback(tmp_path):
    whole, resumed = Stranger(), Stranger()
    make_trainer(tmp_path, lightnings(), every_step(tmp_path), max_epochs=2).fit(whole, vectors())
    trainer = make_trainer(tmp_path, ema(), max_epochs=2)
    with pytest.warns(UserWarning, match="callbacks used to create the checkpoint"):
        trainer.fit(resumed, vectors(), ckpt_path=tmp_path / "step=4.ckpt")
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict())


def test_with_accumulated_batches_it_averages_once_a_step(tmp_path):
    average = ema()
    make_trainer(tmp_path, average, accumulate_grad_batches=2).fit(Stranger(), vectors())
    average_model: Any = average._average_model
    assert average_model.n_averaged == 2


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_weights_in_another_dtype_than_the_average_are_refused_before_the_first_step(
    tmp_path, precision
):
    probe = Probe(master)
    trainer = make_trainer(tmp_path, ema(), probe, precision=precision)
    with pytest.raises(
        ValueError, match=r"^EMA: body.0.weight is torch\.\w+ and its average torch.f"
    ):
        trainer.fit(Stranger(), vectors())
    assert not probe.seen
