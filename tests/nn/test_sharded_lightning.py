"""The callback SparsifyModel under Lightning's ModelParallelStrategy, on two CPU processes."""

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from nn_checks import layers
from nn_ranks import (
    N_RANKS,
    assert_same_on_every_rank,
    free_port,
    gathered,
    launched,
    own_half,
)
from nn_sharded import ALL, IMAGES, LABELS, adamw, assert_same_weights, sharded, sparse_model
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, TensorDataset

import sparsetrain as st

STEPS = 4


class Regression(pl.LightningModule):
    """The small model on one batch. shards: it is given to FSDP2 in `configure_model`."""

    def __init__(self, shards: bool) -> None:
        super().__init__()
        self.model: Any = st.densify(sparse_model(ALL))
        self.shards, self.losses = shards, []

    def configure_model(self) -> None:
        if self.shards:
            sharded(self.model)

    def configure_optimizers(self) -> Any:
        return adamw(self.model)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        images, labels = batch
        loss = nn.functional.mse_loss(self.model(images), labels)
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.model(batch[0])


def fit(module: Regression, images: Any, labels: Any, strategy: Any) -> st.SparsifyModel:
    sparsity = st.Sparsity(
        include=("model.blocks.*",),
        weight=ALL.weight,
        activation=ALL.activation,
        schedule=st.Schedule(mask_every=2),
    )
    callback = st.SparsifyModel(sparsity)
    batches = DataLoader(TensorDataset(images, labels), batch_size=len(images))
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1 if strategy == "auto" else N_RANKS,
        strategy=strategy,
        callbacks=[callback],
        max_epochs=STEPS,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    # The validation before the first step leaves the root of FSDP2 whole.
    trainer.fit(module, batches, batches)
    return callback


def losses_are_those_of_one_process(port: str) -> None:
    model, alone = Regression(shards=True), Regression(shards=False)
    with launched(port):
        callback = fit(model, own_half(IMAGES), own_half(LABELS), ModelParallelStrategy())
    expected = fit(alone, IMAGES, LABELS, "auto")
    assert callback.report == expected.report
    assert isinstance(model.model.blocks[0].mlp.fc1.weight, DTensor)
    together = [sum(losses) / N_RANKS for losses in zip(*gathered(model.losses), strict=True)]
    assert together == pytest.approx(alone.losses, abs=1e-6)
    assert len(set(together)) == STEPS
    assert_same_weights(model.model, alone.model, atol=1e-5)
    for name, layer in layers(model).items():
        assert torch.equal(layer.mask, layers(alone)[name].mask)
        assert_same_on_every_rank(layer.mask)
    assert st.density(model) == 0.5


@pytest.mark.slow
def test_model_parallel_training_is_that_of_one_process(ranks):
    ranks(losses_are_those_of_one_process, free_port())
