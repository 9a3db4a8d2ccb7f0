"""Masks that ranks choose from their own rows, on two CPU processes."""

from typing import Any

import pytest
import torch
from nn_checks import layers, normal
from nn_ranks import assert_same_on_every_rank
from nn_sharded import METHODS, WEIGHTS, full, sharded, sparse_model, train
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

import sparsetrain as st
from sparsetrain.nn.shard_masks import masks_of_shards
from sparsetrain.nn.sharded import own_rows
from sparsetrain.ops import select24
from sparsetrain.select import RULES, Selection


def masks_are_those_of_whole_weights(rule):
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Linear(20, 16), nn.Linear(16, 8), nn.Linear(8, 12))
    st.sparsify(model, st.Sparsity(weight=st.STE(), selection=Selection.of_rule(rule)))
    expected = [select24(layer.weight, rule) for layer in model]
    fully_shard(model)
    with CommDebugMode() as sent:
        chosen = masks_of_shards(layers(model).values())
    assert sent.get_total_counts() == 1
    assert list(chosen) == list(model)[:2]  # six of the last layer's rows are a tile and a half
    for mask, whole in zip(chosen.values(), expected, strict=False):
        assert torch.equal(mask, whole)
    st.update_masks(model)
    for layer, whole in zip(model, expected, strict=True):
        assert torch.equal(layer.mask, whole)
        assert_same_on_every_rank(layer.mask)


@pytest.mark.parametrize("rule", RULES)
def test_masks_of_own_rows_are_those_of_whole_weights_gathered_at_once(ranks, rule):
    ranks(masks_are_those_of_whole_weights, rule)


def a_step_gathers_bits():
    model = sharded(sparse_model(WEIGHTS))
    train(model, steps=3)
    for name, layer in layers(model).items():
        assert torch.equal(layer.mask, select24(full(layer.weight), "transposable")), name
        assert int(layer.flipped) >= 0
    assert masks_of_shards(layers(sharded(sparse_model(METHODS["rigl"]))).values()) == {}


def test_masks_after_a_step_are_those_of_the_whole_weights(ranks):
    ranks(a_step_gathers_bits)


def rows_are_a_dtensors():
    line = init_device_mesh("cpu", (2,))
    grid = init_device_mesh("cpu", (1, 2))
    for rows in (8, 5, 3, 1):
        x = normal(rows, 3, seed=rows)
        for mesh, placements in (
            (line, [Shard(0)]),
            (grid, [Replicate(), Shard(0)]),
            (grid, [Shard(0), Shard(0)]),
            (line, [Replicate()]),
        ):
            weight = distribute_tensor(x, mesh, placements)
            assert isinstance(weight, DTensor)
            assert torch.equal(own_rows(x, weight), weight.to_local())


def test_own_rows_are_those_that_a_dtensor_has_here(ranks):
    ranks(rows_are_a_dtensors)
