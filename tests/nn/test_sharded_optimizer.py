"""AdamW on the rows of a rank, on two CPU processes."""

from typing import Any

import pytest
import torch
from nn_ranks import free_port
from nn_sharded import IMAGES, LABELS, WEIGHTS, sharded, sparse_model
from nn_sharded_fit import classifier, fit
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW

import sparsetrain as st
from sparsetrain.lightning.fsdp2 import ShardAdamW


def trained(kind: type[AdamW], fused: bool) -> tuple[Any, AdamW]:
    model = sharded(sparse_model(WEIGHTS))
    optimizer = kind(model.parameters(), lr=1e-2, weight_decay=0.1, fused=fused)
    with st.attach(model, optimizer):
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(IMAGES), LABELS).backward()
            optimizer.step()
    return model, optimizer


def numbers(model: Any, optimizer: AdamW) -> list[list[Tensor]]:
    """Of each parameter its value and its states, whole."""
    found = []
    for weight in model.parameters():
        tensors = [weight.detach(), *optimizer.state[weight].values()]
        found.append([t.full_tensor() if isinstance(t, DTensor) else t for t in tensors])
    return found


def rows_are_updated_as_dtensors_are(fused):
    model, optimizer = trained(ShardAdamW, fused)
    for ours, theirs in zip(
        numbers(model, optimizer), numbers(*trained(AdamW, fused)), strict=True
    ):
        assert all(map(torch.equal, ours, theirs))
    assert all(isinstance(s["exp_avg"], DTensor) for s in optimizer.state.values())


@pytest.mark.parametrize("fused", [False, True])
def test_rows_are_updated_as_adamw_updates_their_dtensors(ranks, fused):
    ranks(rows_are_updated_as_dtensors_are, fused)


def no_dtensor_is_updated(port, folder):
    module = classifier()
    optimizers = []
    make = module.configure_optimizers
    module.configure_optimizers = lambda: optimizers.append(make()) or optimizers[0]
    fit(port, folder, module, max_epochs=1)
    optimizer = optimizers[0][0][0]
    group = optimizer.param_groups[0]
    for weight in group["params"]:
        weight.grad = torch.zeros_like(weight)
    lists: list[list[Tensor]] = [[] for _ in range(6)]
    optimizer._init_group(group, *lists)
    assert len(lists[0]) == len(group["params"])
    assert not any(isinstance(tensor, DTensor) for tensors in lists for tensor in tensors)


def test_fsdp2_in_fit_updates_plain_tensors(ranks, tmp_path):
    ranks(no_dtensor_is_updated, free_port(), tmp_path)
