"""FSDP2 on two CPU processes: what each chooses, packs and trains is what one process would."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from nn_checks import layers, seeded
from nn_ranks import assert_same_on_every_rank
from nn_sharded import (
    ALL,
    BF16,
    METHODS,
    VARIANTS,
    WEIGHTS,
    Uneven,
    adamw,
    assert_same_weights,
    full,
    leave_whole,
    sgd,
    sharded,
    sparse_model,
    step,
    train,
    whole_weights,
)
from torch.distributed.fsdp import fully_shard

import sparsetrain as st
from sparsetrain.nn import sparse_state
from sparsetrain.ops import flips24, select24
from sparsetrain.select import ROW

S_STE = st.Sparsity(include=("blocks.*",), weight=st.SSTE(mvue=False))

when = pytest.mark.parametrize("forward_first", [False, True], ids=["at first", "after a forward"])


def losses_are_those_of_one_process(variant, mask_every):
    sparsity = {**VARIANTS, **METHODS}[variant]
    model = sharded(sparse_model(sparsity, mask_every=mask_every))
    alone = sparse_model(sparsity, mask_every=mask_every)
    together = train(model)
    expected = train(alone, halved=False)
    assert together == pytest.approx(expected, abs=1e-6)
    assert len(set(together)) == len(together)
    assert_same_weights(model, alone, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_methods_that_look_at_gradients_see_whole_ones(ranks, method):
    ranks(losses_are_those_of_one_process, method, 2)


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("variant", "mask_every"),
    [
        ("weights", 1),
        slow("weights", 2),
        ("activations", 1),
        slow("activations", 2),
        slow("all", 1),
        ("all", 2),
    ],
)
def test_two_ranks_train_as_one_process_with_both_batches(ranks, variant, mask_every):
    ranks(losses_are_those_of_one_process, variant, mask_every)


def bfloat16_losses_are_those_of_one_process(variant):
    model = sharded(sparse_model(VARIANTS[variant], mask_every=2), BF16)
    alone = sharded(sparse_model(VARIANTS[variant], mask_every=2), BF16, alone=True)
    together = train(model)
    expected = train(alone, halved=False)
    assert together == pytest.approx(expected, rel=1e-2)
    assert together[-1] < together[0]


@pytest.mark.parametrize("variant", [slow("weights"), slow("activations"), "all"])
def test_two_ranks_with_bfloat16_parameters_train_as_one(ranks, variant):
    ranks(bfloat16_losses_are_those_of_one_process, variant)


def forwards_choose_the_same(policy, dtype):
    model = sharded(sparse_model(replace(ALL, weight=st.STE())), policy)
    packed, optimizer = [], adamw(model)

    def keep(layer, inputs):
        linear: Any = layer.fc1 if isinstance(layer, st.SparseMlp) else layer
        assert linear.mask is None
        packed.append(linear.packed(inputs[0].dtype).dense)

    for name, module in model.named_modules():
        # Hooks on the linears of an MLP would have it call them.
        if isinstance(module, (st.SparseLinear, st.SparseMlp)) and ".mlp." not in name:
            module.register_forward_pre_hook(keep)
    for _ in range(2):
        step(model, optimizer)
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


def masks_are_whole(forward_first):
    model = sharded(sparse_model(WEIGHTS, mask_every=100), BF16, blocks=False)
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


def pruned_rows_decay():
    models = seeded(Uneven()), seeded(Uneven())
    for model in models:
        st.sparsify(model, st.Sparsity(weight=st.SRSTE(decay=0.5), selection=ROW))
    model, alone = models
    fully_shard(model)
    optimizers = sgd(model), sgd(alone)
    leave_whole(model)
    before = whole_weights(alone)
    for one, optimizer in zip(models, optimizers, strict=True):
        st.attach(one, optimizer)
    model.set_reshard_after_backward(False)
    step(model, optimizers[0])
    step(alone, optimizers[1], halved=False)
    assert_same_weights(model, alone)
    # Without its decay the pruned rest of the unused rows would stay as it is.
    assert torch.equal(
        full(model.five.weight)[3:].eq(before["five.weight"][3:]).sum(1), torch.tensor([4, 4])
    )
    assert_same_on_every_rank(full(model.one.weight))


def test_decay_reaches_uneven_and_empty_shards(ranks):
    ranks(pruned_rows_decay)


def sharded_weights_are_packed_in_each_forward(forward_first):
    model = sharded(sparse_model(ALL), BF16, blocks=False)
    if forward_first:
        leave_whole(model)
    with pytest.raises(ValueError, match="FSDP2 shards it, so weights are packed in each forward"):
        st.packed_once(model).__enter__()
    assert all(layer.held is None for layer in layers(model).values())


@when
def test_sharded_weights_are_not_packed_for_several_forwards(ranks, forward_first):
    ranks(sharded_weights_are_packed_in_each_forward, forward_first)


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
