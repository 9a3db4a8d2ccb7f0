"""SparsifyModel in the trainer of somebody who uses nothing else of this package."""

import pickle

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from lightning_helpers import (
    CHATTER,
    Probe,
    Stranger,
    every_step,
    make_body,
    make_trainer,
    pairs,
    timm_vit,
    vectors,
    weights24,
)

from sparsetrain import SRSTE, SSTE, STE, SparseLinear, SparsifyModel, Sparsity, densify, density
from sparsetrain.reference.masks24 import unpack_bits
from sparsetrain.reference.soft_threshold24 import soft_scale24

pytestmark = CHATTER


def mask_of(layer):
    return unpack_bits(layer.current_mask(), layer.in_features)


def converted(sparsify):
    """Names in the report of a callback that has converted something."""
    assert sparsify.report is not None
    return [row.name for row in sparsify.report.converted]


def layer_sparse(trainer, module):
    return trainer.global_step, module.body[0].sparse


def test_layers_are_swapped_before_the_module_makes_its_optimizer(tmp_path):
    class Looks(Stranger):
        def configure_optimizers(self):
            self.kinds = [type(layer) for layer in self.body]
            return super().configure_optimizers()

    module, sparsify = Looks(), SparsifyModel(weights24(STE()))
    make_trainer(tmp_path, sparsify, max_steps=1).fit(module, vectors())
    assert module.kinds == [SparseLinear, torch.nn.ReLU, SparseLinear]
    assert converted(sparsify) == ["body.0", "body.2"]


def test_layers_that_configure_model_makes_are_swapped_as_well(tmp_path):
    class Late(Stranger):
        def __init__(self):
            super().__init__()
            self.body = None

        def configure_model(self):
            if self.body is None:
                self.body = make_body()

    module, sparsify = Late(), SparsifyModel(weights24(STE()))
    trainer = make_trainer(tmp_path, sparsify, max_steps=1)
    trainer.fit(module, vectors())
    trainer.validate(module, vectors(), verbose=False)
    assert isinstance(module.body[0], SparseLinear)
    assert density(module) == 0.5


class Built(Stranger):
    def configure_model(self):
        pass


def test_a_module_with_configure_model_can_be_pickled_after_training(tmp_path):
    module = Built()
    make_trainer(tmp_path, SparsifyModel(weights24(STE())), max_steps=1).fit(module, vectors())
    module.trainer = None
    assert torch.equal(pickle.loads(pickle.dumps(module)).body[0].weight, module.body[0].weight)


def test_phases_follow_optimizer_steps_not_batches(tmp_path):
    schedule = weights24(STE(), dense_warmup=0.2, dense_tail=0.3)
    probe = Probe(layer_sparse)
    trainer = make_trainer(
        tmp_path, SparsifyModel(schedule), probe, max_epochs=5, accumulate_grad_batches=2
    )
    trainer.fit(Stranger(), vectors())
    assert probe.seen == [(step, 2 <= step < 7) for step in range(10) for _ in range(2)]


def test_masks_are_chosen_every_n_optimizer_steps_and_when_the_sparse_phase_begins(tmp_path):
    sparsify = SparsifyModel(weights24(STE(), dense_warmup=0.2, mask_every=3))
    probe = Probe(lambda _, module: (module.body[0].phase.masks_step, mask_of(module.body[0])))
    trainer = make_trainer(tmp_path, sparsify, probe, max_epochs=5, accumulate_grad_batches=2)
    trainer.fit(Stranger(lr=3.0), vectors())
    steps = [step for step, _ in probe.seen[::2]]
    assert steps == [0, 0, 2, 3, 3, 3, 6, 6, 6, 9]
    masks = dict(probe.seen)
    for step, mask in probe.seen:
        assert torch.equal(mask, masks[step]), "a mask changed between its updates"
    assert not torch.equal(masks[3], masks[6])


def test_frozen_masks_stay_as_they_were_at_the_freeze(tmp_path):
    sparsify = SparsifyModel(weights24(STE(), freeze_at=0.5))
    probe = Probe(lambda trainer, module: mask_of(module.body[0]))
    make_trainer(tmp_path, sparsify, probe, max_epochs=2).fit(Stranger(lr=3.0), vectors())
    assert not torch.equal(probe.seen[0], probe.seen[3])
    assert all(torch.equal(mask, probe.seen[3]) for mask in probe.seen[4:])


def test_a_recipe_is_taken_by_its_name(tmp_path):
    sparsify = SparsifyModel(recipe="vit_tiny_24")
    module = Stranger(timm_vit())
    images = pairs(torch.randn(4, 3, 8, 8), torch.arange(4))
    make_trainer(tmp_path, sparsify, max_steps=1).fit(module, images)
    assert converted(sparsify) == ["body.blocks.0.mlp.fc1", "body.blocks.0.mlp.fc2"]
    assert sparsify.sparsity.weight == SRSTE()


def test_an_unknown_recipe_is_refused_with_the_nearest_names():
    with pytest.raises(ValueError, match=r"recipe='vit_tiny' is unknown: .*vit_tiny_24"):
        SparsifyModel(recipe="vit_tiny")


def trained(folder, sparsify, **settings):
    module = Stranger(lr=1.0)
    trainer = make_trainer(folder, sparsify, every_step(folder / "saved"), **settings)
    trainer.fit(module, vectors())
    return module


def validated(folder, sparsity, checkpoint, **arguments):
    module = Stranger()
    trainer = make_trainer(folder, SparsifyModel(sparsity), every_step(folder / "saved"))
    (metrics,) = trainer.validate(
        module, vectors(), ckpt_path=checkpoint, verbose=False, **arguments
    )
    return module, metrics["val/loss"]


@torch.no_grad()
def mean_loss(module):
    losses = [F.cross_entropy(module(x), y) for x, y in vectors()]
    return float(torch.stack(losses).mean())


@pytest.mark.parametrize("arguments", [{}, {"weights_only": True}])
def test_validating_a_checkpoint_restores_masks_that_its_weights_do_not_give(tmp_path, arguments):
    sparsity = weights24(STE(), freeze_at=0.0)
    whole = trained(tmp_path, SparsifyModel(sparsity), max_epochs=2)
    path = tmp_path / "saved" / "step=8.ckpt"
    module, loss = validated(tmp_path, sparsity, path, **arguments)
    assert torch.equal(mask_of(module.body[0]), mask_of(whole.body[0]))
    assert loss == pytest.approx(mean_loss(whole), rel=1e-6)
    phase = module.body[0].phase
    assert (phase.name, phase.step, phase.masks_step, phase.frozen) == ("sparse", 8, 0, True)
    anew = Stranger(densify(whole).body)
    SparsifyModel(weights24(STE())).setup(make_trainer(tmp_path), anew, "fit")
    assert mean_loss(anew) != pytest.approx(loss, rel=1e-3), "the masks make no difference here"


def test_a_checkpoint_of_the_dense_tail_is_validated_dense(tmp_path):
    sparsity = weights24(STE(), dense_tail=0.5)
    whole = trained(tmp_path, SparsifyModel(sparsity))
    module, loss = validated(tmp_path, sparsity, tmp_path / "saved" / "step=4.ckpt")
    assert module.body[0].phase.name == "dense_tail"
    assert density(module) == 1.0
    assert loss == pytest.approx(mean_loss(densify(whole)), rel=1e-6)


def test_validating_a_checkpoint_without_masks_says_that_they_are_chosen_anew(tmp_path):
    dense = make_trainer(tmp_path, every_step(tmp_path / "saved"))
    dense.fit(Stranger(), vectors())
    with pytest.warns(UserWarning, match="masks are chosen anew"):
        validated(tmp_path, weights24(STE()), tmp_path / "saved" / "step=4.ckpt")


@pytest.mark.parametrize("warmup", [0.5, 1.0])
def test_one_callback_takes_each_module_that_it_is_given_from_the_start(tmp_path, warmup):
    sparsify, probe = SparsifyModel(weights24(STE(), dense_warmup=warmup)), Probe(layer_sparse)
    for _ in range(2):
        module = Stranger()
        make_trainer(tmp_path, sparsify, probe).fit(module, vectors())
        assert isinstance(module.body[0], SparseLinear)
    one = [(step, step >= 4 * warmup) for step in range(4)]
    assert probe.seen == one + one


def straight_through(layer, mask, x):
    weight = layer.weight + (layer.weight * mask - layer.weight).detach()
    return F.linear(x, weight, layer.bias)


def test_the_decay_of_sr_ste_is_added_to_the_clipped_gradient(tmp_path):
    decay, clip, lr = 0.3, 0.01, 0.5
    module, sparsify = Stranger(lr=lr), SparsifyModel(weights24(SRSTE(decay=decay), mask_every=9))
    trainer = make_trainer(tmp_path, sparsify, gradient_clip_val=clip, max_steps=3)
    trainer.fit(module, vectors())

    body = make_body()
    layers = [body[0], body[2]]
    masks = [mask_of(module.body[0]), mask_of(module.body[2])]
    optimizer = torch.optim.SGD(body.parameters(), lr=lr)
    for x, y in list(vectors())[:3]:
        optimizer.zero_grad()
        hidden = F.relu(straight_through(layers[0], masks[0], x))
        F.cross_entropy(straight_through(layers[1], masks[1], hidden), y).backward()
        assert torch.nn.utils.clip_grad_norm_(body.parameters(), clip) > clip
        for layer, mask in zip(layers, masks, strict=True):
            layer.weight.grad += decay * ~mask * layer.weight.detach()
        optimizer.step()
    for got, expected in zip(module.body.parameters(), body.parameters(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-7)


def test_s_ste_takes_its_scale_from_the_weights_that_training_starts_with(tmp_path):
    dense = make_trainer(tmp_path, every_step(tmp_path / "saved"))
    dense.fit(Stranger(lr=1.0), vectors())
    module, sparsify = Stranger(), SparsifyModel(weights24(SSTE(mvue=False)))
    probe = Probe(lambda trainer, module: module.body[0].scale.clone())
    trainer = make_trainer(tmp_path, sparsify, probe, every_step(tmp_path / "saved"), max_epochs=2)
    with pytest.warns(UserWarning, match="masks are chosen anew"):
        trainer.fit(module, vectors(), ckpt_path=tmp_path / "saved" / "step=4.ckpt")
    loaded = torch.load(tmp_path / "saved" / "step=4.ckpt")["state_dict"]["body.0.weight"]
    assert all(torch.equal(scale, soft_scale24(loaded)) for scale in probe.seen)
    assert not torch.equal(soft_scale24(make_body()[0].weight), probe.seen[0])


def test_weights_that_turn_nan_are_named_when_anomalies_are_detected(tmp_path):
    module = Stranger()
    module.body[2].weight.data[0, 0] = torch.nan
    trainer = make_trainer(tmp_path, SparsifyModel(weights24(STE())), detect_anomaly=True)
    with pytest.raises(ValueError, match=r"step 0: weights of body\.2 hold NaN"):
        trainer.fit(module, vectors())


def test_fractions_of_a_run_without_an_end_are_refused(tmp_path):
    sparsify = SparsifyModel(weights24(STE(), dense_warmup=0.1))
    with pytest.raises(ValueError, match=r"max_epochs=-1, max_steps=-1: .*the run has no end"):
        make_trainer(tmp_path, sparsify, max_epochs=-1).fit(Stranger(), vectors())


def test_a_schedule_without_fractions_runs_without_an_end(tmp_path):
    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            trainer.should_stop = trainer.global_step >= 6

    module = Stranger()
    make_trainer(tmp_path, SparsifyModel(weights24(STE())), Stop(), max_epochs=-1).fit(
        module, vectors()
    )
    assert density(module) == 0.5


def test_a_sparsity_of_nothing_leaves_the_module_dense(tmp_path):
    module, sparsify = Stranger(), SparsifyModel(Sparsity(weight=None))
    make_trainer(tmp_path, sparsify, max_steps=1).fit(module, vectors())
    assert type(module.body[0]) is torch.nn.Linear
    assert "Nothing to make sparse" in str(sparsify.report)
