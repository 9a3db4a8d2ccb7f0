"""FSDP2 on two CPU processes: models that are sharded become sparse and dense, or are refused."""

import pytest
import torch
from nn_checks import seeded
from nn_sharded import (
    ALL,
    IMAGES,
    Uneven,
    assert_same_weights,
    full,
    leave_whole,
    sgd,
    sharded,
    sparse_model,
    step,
    train,
)
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard

import sparsetrain as st
from sparsetrain.select import ROW

when = pytest.mark.parametrize("forward_first", [False, True], ids=["at first", "after a forward"])


def a_sharded_model_becomes_sparse_and_dense(forward_first):
    model = sharded(st.densify(sparse_model(ALL)), blocks=not forward_first)
    alone = st.densify(sparse_model(ALL))
    if forward_first:
        leave_whole(model)
    for one in (model, alone):
        st.sparsify(one, ALL)
    assert train(model) == pytest.approx(train(alone, halved=False), abs=1e-6)
    if forward_first:
        leave_whole(model)
    for one in (model, alone):
        st.densify(one, apply_masks=True)
        assert not any(isinstance(m, (st.SparseLinear, st.SparseMlp)) for m in one.modules())
    assert_same_weights(model, alone, atol=1e-5)
    weight = full(model.blocks[0].mlp.fc1.weight)
    assert weight.count_nonzero() == weight.numel() // 2
    assert train(model) == pytest.approx(train(alone, halved=False), abs=1e-5)


@when
def test_a_sharded_model_becomes_sparse_and_dense_again(ranks, forward_first):
    ranks(a_sharded_model_becomes_sparse_and_dense, forward_first)


def layers_that_are_roots():
    model, dense = sparse_model(ALL), sparse_model(ALL)
    st.densify(dense)
    fully_shard(dense.blocks[0].mlp)
    report = st.sparsify(dense, st.Sparsity(include=("blocks.*",), activation=st.Activation24()))
    reasons = {row.name: row.reason for row in report.skipped}
    assert "itself given to fully_shard" in reasons["blocks.0.mlp"]
    fully_shard(model.blocks[0].proj)
    fully_shard(model.blocks[1].mlp)
    with torch.no_grad():
        model(IMAGES)
    with pytest.raises(ValueError, match=r"blocks\.0\.proj was itself given to fully_shard"):
        st.densify(model)
    with pytest.raises(ValueError, match=r" is sharded: load the whole state dict, and sparse_st"):
        st.save_pretrained(model, "never-written")
    assert isinstance(model.blocks[0].mlp, st.SparseMlp)
    fully_shard(model.blocks[0].mlp.get_submodule("fc1"))
    # Its own hooks gather it, so it has to be called.
    with torch.no_grad(), pytest.warns(UserWarning, match="dense: fc1 is FSDPSparseLinear now"):
        assert model(IMAGES).isfinite().all()


def test_what_cannot_be_sharded_so_is_refused(ranks):
    ranks(layers_that_are_roots)


def columns_have_no_decay():
    model = seeded(Uneven())
    st.sparsify(model, st.Sparsity(weight=st.SRSTE(decay=0.5), selection=ROW))
    fully_shard(model, shard_placement_fn=lambda weight: Shard(weight.dim() - 1))
    optimizer = sgd(model)
    st.attach(model, optimizer)
    with pytest.raises(ValueError, match="leave shard_placement_fn of fully_shard out"):
        step(model, optimizer)


def test_decay_of_weights_sharded_by_columns_is_refused(ranks):
    ranks(columns_have_no_decay)
