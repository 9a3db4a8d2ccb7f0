"""The same callback and model in more than one run, in any order."""

from typing import Any

import pytest
import pytorch_lightning as pl
import timm
import torch
from hydra import initialize_config_dir
from pytorch_lightning.callbacks import GradientAccumulationScheduler
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import sparsetrain as st
from sparsetrain.lightning import SparsifyModel
from sparsetrain.nn.flops import training_flops_per_image

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x):
        return self.last(self.first(x).relu())


class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = Net()

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return self(batch[0]).square().mean()

    def validation_step(self, batch, batch_idx):
        self(batch[0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(callback, folder, steps=3):
    return pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        default_root_dir=folder,
    )


def loader():
    return DataLoader(TensorDataset(torch.ones(12, 8)), batch_size=4)


def sparsify_model():
    return SparsifyModel(st.Sparsity(weight=st.STE(), schedule=st.Schedule(mask_every=2)))


def test_a_checkpoint_can_be_validated_and_then_trained_on(tmp_path):
    path = tmp_path / "run.ckpt"
    first = trainer(sparsify_model(), tmp_path)
    first.fit(Module(), loader())
    first.save_checkpoint(path)
    module, callback = Module(), sparsify_model()
    trainer(callback, tmp_path).validate(module, loader(), ckpt_path=path, verbose=False)
    again = trainer(callback, tmp_path, steps=6)
    again.fit(module, loader())
    assert again.global_step == 6


def test_a_second_run_starts_its_phases_anew(tmp_path):
    schedule = st.Schedule(dense_warmup=0.5)
    callback = SparsifyModel(st.Sparsity(weight=st.STE(), schedule=schedule))
    module = Module()
    trainer(callback, tmp_path, steps=2).fit(module, loader())
    assert callback.phase == "sparse"
    trainer(callback, tmp_path, steps=1).fit(module, loader())
    first: Any = module.net.first
    assert (first.phase.masks_step, first.phase.step) == (1, 1)


def test_counting_flops_leaves_a_compiled_module_to_be_compiled():
    torch.compiler.reset()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    module = Module()
    module.net.compile(backend=backend)
    assert training_flops_per_image(module, torch.ones(2, 8)) > 0
    assert graphs == []
    module(torch.ones(2, 8))
    assert len(graphs) == 1


def test_an_mlp_that_keeps_dense_activations_is_reported():
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=8, depth=2, num_classes=4
    )
    vit.get_submodule("blocks.0.mlp").norm = nn.LayerNorm(768)
    both = st.Sparsity(include=("*mlp*",), activation=st.Activation24())
    report = st.sparsify(vit, both)
    (row,) = (r for r in report.skipped if r.name == "blocks.0.mlp")
    assert row.reason == "its activations stay dense: it normalizes between act and fc2"


def test_a_recipe_is_found_inside_another_hydra_program(tmp_path):
    (tmp_path / "config.yaml").write_text("mine: 1")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        callback = SparsifyModel(recipe="vit_b_24")
    assert isinstance(callback.sparsity.weight, st.SRSTE)


def test_training_after_the_optimizer_was_detached_warns_again():
    model = nn.Sequential(nn.Linear(8, 8))
    st.sparsify(model, st.Sparsity(weight=st.SRSTE()))
    attached = st.attach(model, torch.optim.SGD(model.parameters(), lr=0.1))
    model(torch.ones(1, 8))
    attached.detach()
    with pytest.warns(UserWarning, match="not attached"):
        model(torch.ones(1, 8))


def test_a_new_model_is_validated_sparse_after_another_ended_dense(tmp_path):
    callback = SparsifyModel(st.Sparsity(("*",), schedule=st.Schedule(dense_tail=0.5)))
    data = DataLoader(TensorDataset(torch.randn(8, 8)), batch_size=2)
    trainer(callback, tmp_path, steps=4).fit(Module(), data)
    fresh = Module()
    trainer(callback, tmp_path).validate(fresh, data, verbose=False)
    layer: Any = fresh.net.first
    assert layer.sparse


class SaysSparse(Module):
    def test_step(self, batch, batch_idx):
        layer: Any = self.net.first
        self.log("sparse", float(layer.sparse))


def spawner(callback, folder):
    return pl.Trainer(
        accelerator="cpu",
        strategy="ddp_spawn",
        devices=1,
        max_steps=4,
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )


@pytest.mark.slow
@pytest.mark.parametrize(("tail", "sparse"), [(0.4, 0.0), (0.0, 1.0)])
def test_what_spawned_processes_trained_is_tested_in_the_phase_it_ended_in(tmp_path, tail, sparse):
    callback = SparsifyModel(st.Sparsity(("*",), schedule=st.Schedule(dense_tail=tail)))
    spawning = spawner(callback, tmp_path)
    module, data = SaysSparse(), DataLoader(TensorDataset(torch.randn(8, 8)), batch_size=2)
    spawning.fit(module, data)
    (metrics,) = spawning.test(module, data, verbose=False)
    assert metrics["sparse"] == sparse


@pytest.mark.slow
def test_masks_that_stayed_in_spawned_processes_are_told_where_others_are_evaluated(tmp_path):
    callback = SparsifyModel(st.Sparsity(pattern=st.Block(4, 4, 0.5)))
    module, data = SaysSparse(), DataLoader(TensorDataset(torch.randn(8, 8)), batch_size=2)
    spawner(callback, tmp_path).fit(module, data)
    with pytest.warns(UserWarning, match="the masks stayed in the processes that trained"):
        trainer(callback, tmp_path).test(module, data, verbose=False)


def test_a_second_fit_of_a_trainer_goes_on_where_the_first_one_ended(tmp_path):
    sparsity = st.Sparsity(schedule=st.Schedule(dense_warmup=0.5))
    callback, module = SparsifyModel(sparsity), Module()
    run = trainer(callback, tmp_path, steps=4)
    data = DataLoader(TensorDataset(torch.randn(8, 8)), batch_size=1)
    run.fit(module, data)
    assert callback.attached is not None
    assert callback.attached.phase is not None
    assert callback.attached.phase.step == 4
    run.fit_loop.epoch_loop.max_steps = 8
    run.fit(module, data)
    assert callback.attached.phase.step == 8
    assert callback.attached.phase.trained == "sparse"


def test_the_dense_tail_comes_where_more_batches_are_accumulated_later(tmp_path):
    sparsity = st.Sparsity(schedule=st.Schedule(dense_tail=0.25))
    callback, module, phases = SparsifyModel(sparsity), Module(), []

    class Sees(pl.Callback):
        def on_train_batch_end(self, *args):
            phases.append(callback.phase)

    scheduler = GradientAccumulationScheduler({0: 1, 1: 4})
    run: Any = trainer(callback, tmp_path, steps=-1)
    run.callbacks += [scheduler, Sees()]
    run.fit_loop.max_epochs = 2
    run.fit(module, DataLoader(TensorDataset(torch.randn(8, 8)), batch_size=1))
    assert run.global_step == 10
    assert phases[0] == "sparse"
    assert phases[-1] == "dense_tail"
