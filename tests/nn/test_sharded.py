"""FSDP2 on two CPU processes: what each chooses, packs and trains is what one process would."""

import pytest
import torch
from nn_checks import layers, seeded
from nn_ranks import assert_same_on_every_rank
from nn_sharded import (
    ALL,
    BF16,
    IMAGES,
    VARIANTS,
    WEIGHTS,
    assert_same_weights,
    full,
    sgd,
    sharded,
    sparse_model,
    step,
    train,
    whole_weights,
)
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard

import sparsetrain as st
from sparsetrain.nn import sparse_state
from sparsetrain.ops import flips24, select24

S_STE = st.Sparsity(include=("blocks.*",), weight=st.SSTE(mvue=False))

when = pytest.mark.parametrize("forward_first", [False, True], ids=["at first", "after a forward"])


def losses_are_those_of_one_process(variant, masks_every):
    model = sharded(sparse_model(VARIANTS[variant]))
    alone = sparse_model(VARIANTS[variant])
    together = train(model, masks_every=masks_every)
    expected = train(alone, masks_every=masks_every, halved=False)
    assert together == pytest.approx(expected, abs=1e-6)
    assert len(set(together)) == len(together)
    assert_same_weights(model, alone, atol=1e-5)


@pytest.mark.parametrize("masks_every", [None, 2])
@pytest.mark.parametrize("variant", VARIANTS)
def test_two_ranks_train_as_one_process_with_both_batches(ranks, variant, masks_every):
    ranks(losses_are_those_of_one_process, variant, masks_every)


def bfloat16_losses_are_those_of_one_process(variant):
    model = sharded(sparse_model(VARIANTS[variant]), BF16)
    alone = sharded(sparse_model(VARIANTS[variant]), BF16, alone=True)
    together = train(model, masks_every=2)
    expected = train(alone, masks_every=2, halved=False)
    assert together == pytest.approx(expected, rel=1e-2)
    assert together[-1] < together[0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_ranks_with_bfloat16_parameters_train_as_one(ranks, variant):
    ranks(bfloat16_losses_are_those_of_one_process, variant)


def forwards_choose_the_same(policy, dtype):
    model = sharded(sparse_model(ALL), policy)
    packed = []

    def keep(layer, inputs):
        assert layer.held is None
        packed.append(layer.pack(inputs[0].dtype)[0])

    for module in model.modules():
        if isinstance(module, (st.SparseLinear, st.SparseMlp)):
            module.register_forward_pre_hook(keep)
    train(model, steps=2)
    assert len(packed) == 2 * 2 * 3
    for weight24 in packed:
        assert weight24.dtype == dtype
        assert weight24.count_nonzero() == weight24.numel() // 2
        assert_same_on_every_rank(weight24)
    assert st.density(model) == 0.5


@pytest.mark.parametrize(
    ("policy", "dtype"), [(None, torch.float32), (BF16, torch.bfloat16)], ids=["float32", "bf16"]
)
def test_forwards_on_both_ranks_choose_the_same_mask_of_density_one_half(ranks, policy, dtype):
    ranks(forwards_choose_the_same, policy, dtype)


def leave_whole(model):
    """A forward without a backward, after which the root of FSDP2 is not sharded."""
    with torch.no_grad():
        model(IMAGES)
    assert not any(isinstance(weight, DTensor) for weight in model.parameters())


def masks_are_whole(forward_first):
    model = sharded(sparse_model(WEIGHTS), BF16, blocks=False)
    if forward_first:
        leave_whole(model)
    st.update_masks(model)
    first = {name: layer.mask.clone() for name, layer in layers(model).items()}
    for name, weight in whole_weights(model).items():
        if name.removesuffix(".weight") in first:
            mask = first[name.removesuffix(".weight")]
            assert torch.equal(mask, select24(weight, "transposable"))
            assert_same_on_every_rank(mask)
    train(model, steps=3)
    st.update_masks(model)
    flips = [flips24(layer.mask, first[name]) for name, layer in layers(model).items()]
    assert [int(layer.flipped) for layer in layers(model).values()] == list(map(int, flips))
    assert sum(map(int, flips)) > 0
    if forward_first:
        leave_whole(model)
    for stats, layer, flipped in zip(st.inspect(model), layers(model).values(), flips, strict=True):
        weight = full(layer.weight)
        assert stats.density == 0.5
        assert stats.flip_rate == int(flipped) / weight.numel()
        kept = layer.method.weight24(weight, layer.mask, None).square().sum()
        assert stats.kept_energy == pytest.approx(float(kept / weight.square().sum()))
    for name, saved in sparse_state(model).items():
        assert torch.equal(saved["mask"], layers(model)[name].mask)


@when
def test_masks_are_chosen_from_whole_float32_weights(ranks, forward_first):
    ranks(masks_are_whole, forward_first)


class Uneven(nn.Module):
    """Two ranks hold 3 and 2 rows of the first layer, 1 and none of the second."""

    def __init__(self):
        super().__init__()
        self.five = nn.Linear(8, 5)
        self.one = nn.Linear(8, 1)

    def forward(self, x):
        return self.five(x)[..., :3] + self.one(x)


def pruned_rows_decay(kept_masks):
    method = st.SRSTE(rule="row", decay=0.5)
    models = seeded(Uneven()), seeded(Uneven())
    for model in models:
        st.sparsify(model, st.Sparsity(weight=method))
    model, alone = models
    fully_shard(model)
    optimizers = sgd(model), sgd(alone)
    leave_whole(model)
    before = whole_weights(alone)
    for one, optimizer in zip(models, optimizers, strict=True):
        st.decay_pruned_weights(one, optimizer)
        if kept_masks:
            st.update_masks(one)
    model.set_reshard_after_backward(False)
    step(model, optimizers[0])
    step(alone, optimizers[1], halved=False)
    assert_same_weights(model, alone)
    # Without its decay the pruned rest of the unused rows would stay as it is.
    assert torch.equal(
        full(model.five.weight)[3:].eq(before["five.weight"][3:]).sum(1), torch.tensor([4, 4])
    )
    assert_same_on_every_rank(full(model.one.weight))


@pytest.mark.parametrize("kept_masks", [False, True])
def test_decay_reaches_uneven_and_empty_shards(ranks, kept_masks):
    ranks(pruned_rows_decay, kept_masks)


def nothing_is_held():
    model, alone = (sharded(sparse_model(ALL), BF16, blocks=False) for _ in range(2))
    optimizers = sgd(model), sgd(alone)
    for one, optimizer in zip((model, alone), optimizers, strict=True):
        st.decay_pruned_weights(one, optimizer)
    for _ in range(3):
        leave_whole(model)
        st.pack_weights(model)
        assert all(getattr(module, "held", None) is None for module in model.modules())
        assert step(model, optimizers[0]) == step(alone, optimizers[1])


def test_sharded_weights_are_not_held_though_a_forward_left_them_whole(ranks):
    ranks(nothing_is_held)


def beta_is_that_of_whole_weights():
    alone, model = sparse_model(S_STE), sharded(sparse_model(S_STE))
    train(model, steps=2)
    train(alone, steps=2, halved=False)
    for one in (model, alone):
        st.set_sparse(one, False)
        st.set_sparse(one, True)
    for name, layer in layers(model).items():
        torch.testing.assert_close(layer.scale, layers(alone)[name].scale)
        assert_same_on_every_rank(layer.scale)
    assert train(model, steps=2) == pytest.approx(train(alone, steps=2, halved=False), abs=1e-6)


def test_beta_of_s_ste_is_that_of_the_whole_weight(ranks):
    ranks(beta_is_that_of_whole_weights)


def beta_is_that_of_float32_weights():
    model = sharded(sparse_model(S_STE), BF16, blocks=False)
    st.set_sparse(model, False)
    leave_whole(model)
    st.set_sparse(model, True)
    for name, layer in layers(sparse_model(S_STE)).items():
        assert torch.equal(layers(model)[name].scale, layer.scale)


def test_beta_of_s_ste_is_not_that_of_what_a_forward_left(ranks):
    ranks(beta_is_that_of_float32_weights)


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
    assert isinstance(model.blocks[0].mlp, st.SparseMlp)
    fully_shard(model.blocks[0].mlp.fc1)
    with torch.no_grad(), pytest.raises(ValueError, match="not the linears of an MLP"):
        model(IMAGES)


def test_what_cannot_be_sharded_so_is_refused(ranks):
    ranks(layers_that_are_roots)


def columns_have_no_decay():
    model = seeded(Uneven())
    st.sparsify(model, st.Sparsity(weight=st.SRSTE(rule="row", decay=0.5)))
    fully_shard(model, shard_placement_fn=lambda weight: Shard(weight.dim() - 1))
    optimizer = sgd(model)
    st.decay_pruned_weights(model, optimizer)
    with pytest.raises(ValueError, match="leave shard_placement_fn of fully_shard away"):
        step(model, optimizer)


def test_decay_of_weights_sharded_by_columns_is_refused(ranks):
    ranks(columns_have_no_decay)
