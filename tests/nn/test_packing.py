"""pack_weights: what is packed once serves many forwards, and nothing stale is multiplied by."""

import copy
import pickle
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from nn_checks import Mlp, Net, layers, normal, seeded
from op_calls import OpCalls
from torch import nn
from torch.utils.checkpoint import checkpoint

import sparsetrain as st
from sparsetrain.autograd import PORTABLE_ENGINES, Engine
from sparsetrain.nn.packing import PackingLayer, _write
from sparsetrain.pattern import RULES

PACKING = (
    "pack_into24",
    "mask24",
    "pack24",
    "soft_threshold24",
)
"""Ops that make a packed weight; with engine masked, `mask24` does of an activation too."""

SPARSITIES = {
    **{rule: st.Sparsity(weight=st.STE(rule)) for rule in RULES},
    "MVUE": st.Sparsity(weight=st.STE(mvue=True)),
    "SR-STE": st.Sparsity(weight=st.SRSTE(decay=0)),
    "S-STE": st.Sparsity(weight=st.SSTE()),
    "activations": st.Sparsity(weight=None, activation=st.Activation24()),
    "activations by row": st.Sparsity(weight=None, activation=st.Activation24("row")),
    "all": st.Sparsity(activation=st.Activation24()),
    "all, one linear dense": st.Sparsity(activation=st.Activation24()),
}
BOTH = ("transposable", "all")

engines = pytest.mark.parametrize("engine", PORTABLE_ENGINES)
kinds = pytest.mark.parametrize("kind", SPARSITIES)


def sparse_net(kind: str = "transposable", engine: Engine = "masked") -> Any:
    model = seeded(Net())
    st.sparsify(model, SPARSITIES[kind], engine=engine)
    if kind == "all, one linear dense":
        model.mlp.fc2 = model.mlp.fc2.to_dense()
    return model


def packing_layers(model: nn.Module) -> list[Any]:
    return [m for m in model.modules() if isinstance(m, PackingLayer)]


def holding(model: nn.Module) -> list[bool]:
    return [m.held is not None for m in packing_layers(model)]


def change(model: nn.Module, seed: int = 5) -> None:
    """Give the weights other values, which a forward cannot notice."""
    for i, parameter in enumerate(model.parameters()):
        if parameter.dim() == 2:
            parameter.data.copy_(normal(*parameter.shape, seed=100 * seed + i))


def step(model: nn.Module, batches: int = 1, dtype: torch.dtype = torch.float32) -> list[Any]:
    """Outputs of a few batches, then every gradient, accumulated."""
    model.zero_grad()
    torch.manual_seed(0)
    outputs = []
    for seed in range(batches):
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            out = model(normal(3, 5, 8, seed=seed))
        out.float().square().mean().backward()
        outputs.append(out.detach())
    return [*outputs, *(parameter.grad for parameter in model.parameters())]


def assert_same_bits(got: list[Any], expected: list[Any]) -> None:
    for one, other in zip(got, expected, strict=True):
        assert torch.equal(one, other)


# What it gives.


@engines
@kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("masks", ["follow the weights", "are chosen before"])
def test_a_packed_model_gives_the_bits_of_one_that_packs_in_every_forward(
    kind, engine, dtype, masks
):
    model = sparse_net(kind, engine)
    if masks == "are chosen before":
        st.update_masks(model)
        change(model)
    expected = step(model, 2, dtype)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        st.pack_weights(model)
    assert any(holding(model))
    assert_same_bits(step(model, 2, dtype), expected)


@engines
@kinds
def test_forwards_multiply_by_what_was_packed_until_the_next_call(kind, engine):
    model = sparse_net(kind, engine).mlp
    with torch.autocast("cpu", torch.bfloat16):
        st.pack_weights(model)
    before = step(model, dtype=torch.bfloat16)
    change(model)
    assert_same_bits(step(model, dtype=torch.bfloat16), before)
    with torch.autocast("cpu", torch.bfloat16):
        st.pack_weights(model)
    after = step(model, dtype=torch.bfloat16)
    assert (after[0] - before[0]).abs().max() > 0.1
    st.release_weights(model)
    assert_same_bits(step(model, dtype=torch.bfloat16), after)


# How often.


@engines
@pytest.mark.parametrize("kind", ["transposable", "row", "MVUE", "S-STE", *BOTH])
def test_micro_batches_under_activation_checkpointing_pack_once(kind, engine):
    if (kind, engine) == ("all", "masked"):
        pytest.skip("its activations are made sparse by the op that makes its weights")

    class Recomputed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = sparse_net(kind, engine)

        def forward(self, x):
            return checkpoint(self.net, x, use_reentrant=False)

    model = Recomputed()
    with OpCalls() as packs:
        st.pack_weights(model)
    once = packs.count(*PACKING)
    assert once >= len(layers(model))
    with OpCalls() as calls:
        step(model, 3)
    assert calls.count(*PACKING) == 0
    st.release_weights(model)
    with OpCalls() as calls:
        step(model, 3)
    assert calls.count(*PACKING) == 2 * 3 * once, "without it, forward and recomputation pack"


@engines
@pytest.mark.parametrize("kind", BOTH)
def test_evaluation_reuses_what_training_packed(kind, engine):
    model = sparse_net(kind, engine)
    st.pack_weights(model)
    held = [m.held for m in packing_layers(model)]
    expected = model(normal(3, 8))
    with torch.no_grad():
        assert torch.equal(model.eval()(normal(3, 8)), expected)
    with torch.inference_mode():
        assert torch.equal(model(normal(3, 8)), expected)
    assert all(m.held is was for m, was in zip(packing_layers(model), held, strict=True))


@engines
def test_a_linear_layer_inside_a_sparse_mlp_packs_nothing_of_its_own(engine):
    model = sparse_net("all", engine)
    st.pack_weights(model)
    assert model.mlp.held is not None
    assert model.mlp.fc1.held is model.mlp.fc2.held is None
    assert model.embed.held is not None


@engines
@pytest.mark.parametrize("kind", BOTH)
def test_a_forward_in_another_dtype_packs_for_itself(kind, engine):
    model = sparse_net(kind, engine)
    st.pack_weights(model)
    change(model)
    new = step(model, dtype=torch.bfloat16)
    st.release_weights(model)
    assert_same_bits(step(model, dtype=torch.bfloat16), new)


@engines
@pytest.mark.parametrize("kind", BOTH)
def test_what_is_held_is_in_the_dtype_of_autocast(kind, engine):
    model = sparse_net(kind, engine)
    st.pack_weights(model)
    assert {m.held[0].dtype for m in packing_layers(model) if m.held} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):
        st.pack_weights(model)
    assert {m.held[0].dtype for m in packing_layers(model) if m.held} == {torch.bfloat16}


# Weights that changed.


def with_optimizer(model: Any, foreach: bool = False, fused: bool = False) -> None:
    step(model)
    torch.optim.AdamW(model.parameters(), lr=0.1, foreach=foreach, fused=fused).step()


def from_another(model: Any, assign: bool) -> None:
    other = seeded(Net(), seed=7)
    model.load_state_dict(other.state_dict(), assign=assign)


CHANGES = {
    "AdamW": lambda model: with_optimizer(model),
    "foreach AdamW": lambda model: with_optimizer(model, foreach=True),
    "fused AdamW": lambda model: with_optimizer(model, fused=True),
    "load_state_dict": lambda model: from_another(model, assign=False),
    "load_state_dict(assign=True)": lambda model: from_another(model, assign=True),
    "copy_": lambda model: torch.no_grad()(model.embed.weight.copy_)(normal(8, 8, seed=9)),
}


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("how", CHANGES)
def test_a_forward_that_finds_a_weight_changed_packs_for_itself(how, kind):
    model, x = sparse_net(kind), normal(3, 8)
    st.pack_weights(model)
    before, weight = model(x), model.embed.weight.detach().clone()
    CHANGES[how](model)
    assert not torch.equal(model.embed.weight, weight)
    found = model(x)
    with torch.no_grad():
        assert torch.equal(model.eval()(x), found)
    assert (found - before).abs().max() > 0.01
    st.pack_weights(model)
    assert torch.equal(model(x), found)
    st.release_weights(model)
    assert torch.equal(model(x), found)


@pytest.mark.parametrize("linear", ["fc1", "fc2"])
def test_either_weight_of_an_mlp_that_changed_is_noticed(linear):
    model, x = sparse_net("all"), normal(3, 8)
    st.pack_weights(model)
    with torch.no_grad():
        getattr(model.mlp, linear).weight.mul_(2)
    found = model.mlp(x)
    st.release_weights(model)
    assert torch.equal(model.mlp(x), found)


def test_a_bias_that_changed_is_used():
    model, x = sparse_net(), normal(3, 8)
    st.pack_weights(model)
    before = model.embed(x)
    with torch.no_grad():
        model.embed.bias.add_(1)
    torch.testing.assert_close(model.embed(x), before + 1)


def test_training_steps_that_pack_are_those_that_do_not():
    losses = []
    for packs in (True, False):
        model = sparse_net("all", "native")
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, fused=True)
        run = []
        for number in range(4):
            if number == 2:
                st.update_masks(model)
            if packs:
                st.pack_weights(model)
            run.append(step(model, 2)[0].square().mean())
            optimizer.step()
        losses.append(run)
    assert torch.equal(torch.stack(losses[0]), torch.stack(losses[1]))
    assert losses[0][3] < losses[0][0]


# Where it lies.


def places(model: nn.Module) -> list[int]:
    held = [m.held for m in packing_layers(model) if m.held is not None]
    return [tensor.data_ptr() for packed in held for tensor in packed if tensor is not None]


@engines
@kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_call_packs_to_where_the_first_did(kind, engine, dtype):
    model = sparse_net(kind, engine)
    weights = {parameter.data_ptr() for parameter in model.parameters()}
    between = {
        "a change": change,
        "other masks": st.update_masks,
        "a release": lambda model: st.release_weights(model, keep_memory=True),
    }
    first = []
    for act in (None, *between.values()):
        if act is not None:
            act(model)
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            st.pack_weights(model)
        found = step(model, dtype=dtype)
        first = first or places(model)
        assert places(model) == first
        assert not weights & set(first)
        memory = [m.held for m in packing_layers(model)]
        for layer in packing_layers(model):
            layer.held = None
        assert_same_bits(step(model, dtype=dtype), found)
        for layer, held in zip(packing_layers(model), memory, strict=True):
            layer.held = held


@engines
@pytest.mark.parametrize("kind", ["transposable", "row", "S-STE", *BOTH[1:]])
def test_a_backward_through_what_was_written_over_is_refused(kind, engine):
    model = sparse_net(kind, engine)
    st.pack_weights(model)
    loss = model(normal(3, 8)).square().mean()
    change(model)
    st.pack_weights(model)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_memory_goes_unless_it_is_kept_and_with_another_dtype():
    model = sparse_net()
    layer = packing_layers(model)[0]
    st.pack_weights(model)
    st.release_weights(model, keep_memory=True)
    assert layer.held is None
    assert layer.memory is not None
    with torch.autocast("cpu", torch.bfloat16):
        st.pack_weights(model)
    assert layer.memory[0].dtype == torch.bfloat16
    for how in (st.release_weights, lambda model: st.set_sparse(model, False), nn.Module.double):
        st.set_sparse(model, True)
        st.pack_weights(model)
        assert layer.memory is not None
        how(model)
        assert layer.memory is None


def test_a_linear_that_becomes_dense_in_a_packed_mlp_is_held_dense():
    model = sparse_net("all", "native")
    st.pack_weights(model)
    model.mlp.fc2 = model.mlp.fc2.to_dense()
    change(model)
    st.pack_weights(model)
    found = step(model)
    st.release_weights(model)
    assert_same_bits(step(model), found)


def test_what_kernels_pack_is_written_where_it_was_and_not_copied():
    for kind in ("transposable", "MVUE", "SR-STE", "all"):
        model = sparse_net(kind, "native")
        st.pack_weights(model)
        for layer in packing_layers(model):
            if layer.memory is not None:
                again = layer.pack(torch.float32, layer.memory)
                assert [id(form) for form in again] == [id(form) for form in layer.memory]


def test_autograd_is_told_that_memory_is_written_where_a_kernel_does_not():
    memory = (torch.zeros(2), None)
    before = memory[0]._version
    layer: Any = SimpleNamespace(pack=lambda dtype, memory: memory)
    _write(layer, torch.float32, memory)
    assert memory[0]._version > before


@engines
@pytest.mark.parametrize("first", [False, True])
def test_packing_that_is_interrupted_leaves_nothing_half_done(first, engine, monkeypatch):
    model, x = sparse_net("all", engine).mlp, normal(3, 8)
    if not first:
        st.pack_weights(model)
    change(model)

    def interrupted(dtype, into=None):
        if into is not None:
            into[0].zero_()
        raise torch.OutOfMemoryError

    with monkeypatch.context() as patch:
        patch.setattr(type(model), "pack", lambda layer, *given: interrupted(*given))
        with pytest.raises(torch.OutOfMemoryError):
            st.pack_weights(model)
    found = model(x)
    st.pack_weights(model)
    assert torch.equal(model(x), found)
    st.release_weights(model)
    assert torch.equal(model(x), found)


def reshaped(layer: Any) -> None:
    layer.weight, layer.out_features = nn.Parameter(normal(4, 8, seed=9)), 4
    layer.bias = nn.Parameter(layer.bias.detach()[:4])


OTHERS = {
    "shape": reshaped,
    "engine": lambda layer: setattr(layer, "engine", "native"),
    "method": lambda layer: setattr(layer, "method", st.STE("row")),
}


@engines
@pytest.mark.parametrize("what", OTHERS)
def test_a_layer_that_became_another_packs_to_other_memory(what, engine):
    layer, x = sparse_net(engine=engine).embed, normal(3, 8)
    st.pack_weights(layer)
    OTHERS[what](layer)
    st.pack_weights(layer)
    found = layer(x)
    st.release_weights(layer)
    assert torch.equal(layer(x), found)


def test_a_new_weight_where_an_old_one_was_is_noticed():
    layer, x = sparse_net().embed, normal(3, 8)
    for seed in range(100):
        st.pack_weights(layer)
        layer.weight = None
        layer.weight = nn.Parameter(normal(8, 8, seed=seed))
        with torch.no_grad():
            found = layer(x)
            st.release_weights(layer)
            assert torch.equal(layer(x), found)


# What lets go.

LETS_GO = {
    "update_masks": st.update_masks,
    "set_sparse(False)": lambda model: st.set_sparse(model, False),
    "set_sparse(True)": lambda model: st.set_sparse(model, True),
    "load_sparse_state": lambda model: st.load_sparse_state(model, st.sparse_state(model)),
    "to another dtype": lambda model: model.to(torch.float64),
    "to another device": lambda model: model.to("meta"),
    "release_weights": st.release_weights,
}


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("how", LETS_GO)
def test_what_is_held_goes_when_it_is_no_longer_that_of_the_layer(how, kind):
    model = sparse_net(kind)
    st.pack_weights(model)
    assert any(holding(model))
    LETS_GO[how](model)
    assert not any(holding(model))


@engines
@pytest.mark.parametrize("kind", BOTH)
def test_a_dense_phase_holds_nothing_and_is_dense(kind, engine):
    model = sparse_net(kind, engine)
    st.pack_weights(model)
    sparse = model(normal(3, 8))
    st.set_sparse(model, False)
    dense = model(normal(3, 8))
    with OpCalls() as calls:
        st.pack_weights(model)
        assert torch.equal(model(normal(3, 8)), dense)
    assert calls.names == []
    assert not any(holding(model))
    st.set_sparse(model, True)
    st.pack_weights(model)
    assert torch.equal(model(normal(3, 8)), sparse)


# Surroundings.


@engines
@kinds
def test_what_was_packed_in_inference_mode_serves_training(kind, engine):
    model = sparse_net(kind, engine)
    expected = step(model)
    with torch.inference_mode():
        st.pack_weights(model)
        model(normal(3, 8))
    assert all(holding(model)[:1])
    assert_same_bits(step(model), expected)


COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda model: pickle.loads(pickle.dumps(model))}


@engines
@pytest.mark.parametrize("kind", ["transposable", "S-STE", "all"])
@pytest.mark.parametrize("how", COPIES)
def test_a_copy_of_a_packed_model_computes_the_same_and_is_its_own(how, kind, engine):
    model, x = sparse_net(kind, engine), normal(3, 8)
    st.pack_weights(model)
    expected = model(x)
    other = COPIES[how](model)
    assert torch.equal(other(x), expected)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.neg_()
    st.pack_weights(other)
    assert (other(x) - expected).abs().max() > 0.1
    assert torch.equal(model(x), expected)


@engines
@pytest.mark.parametrize("apply_masks", [False, True])
@pytest.mark.parametrize("kind", ["transposable", "S-STE", *BOTH[1:]])
def test_a_packed_model_becomes_dense_without_a_trace(kind, apply_masks, engine):
    plain, model = sparse_net(kind, engine), sparse_net(kind, engine)
    st.pack_weights(model)
    st.densify(plain, apply_masks=apply_masks)
    st.densify(model, apply_masks=apply_masks)
    assert torch.equal(model(normal(3, 8)), plain(normal(3, 8)))
    for module in model.modules():
        assert not [name for name in module.__dict__ if name.startswith(("held", "memory"))]


@engines
def test_layers_that_share_a_weight_each_hold_it_and_each_notice_a_change(engine):
    model: Any = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model[1].weight = model[0].weight
    seeded(model)
    st.sparsify(model, st.Sparsity(), engine=engine)
    expected = step(model)
    st.pack_weights(model)
    assert holding(model) == [True, True]
    assert_same_bits(step(model), expected)
    with torch.no_grad():
        model[0].weight.neg_()
    found = step(model)
    st.release_weights(model)
    assert_same_bits(step(model), found)
    with pytest.raises(AssertionError):
        assert_same_bits(found, expected)


@engines
@pytest.mark.parametrize("sparse", ["fc1", "fc2"])
def test_an_mlp_with_one_sparse_linear_holds_the_other_dense(sparse, engine):
    model: Any = nn.Sequential(seeded(Mlp()))
    both = st.Sparsity(include=("*",), activation=st.Activation24())
    st.sparsify(model, both, engine=engine)
    dense = "fc2" if sparse == "fc1" else "fc1"
    setattr(model[0], dense, getattr(model[0], dense).to_dense())
    expected = step(model)
    st.pack_weights(model)
    assert_same_bits(step(model), expected)
    held = dict(zip(("fc1", "fc2"), model[0].held, strict=False))
    assert torch.equal(held[dense], getattr(model[0], dense).weight)
    assert held[sparse].count_nonzero() == held[sparse].numel() // 2


def test_a_model_without_sparse_layers_is_left_alone():
    model = seeded(Net())
    st.pack_weights(model)
    st.release_weights(model)
    assert model(normal(3, 8)).isfinite().all()


def test_a_layer_that_chooses_its_mask_anew_is_noticed():
    for kind in BOTH:
        model, x = sparse_net(kind), normal(3, 8)
        st.update_masks(model)
        change(model)
        st.pack_weights(model)
        for layer in layers(model).values():
            layer.update_mask()
        found = model(x)
        st.release_weights(model)
        assert torch.equal(model(x), found)


def test_masks_chosen_in_inference_mode_serve_training():
    model = sparse_net()
    with torch.inference_mode():
        st.update_masks(model)
    change(model)
    st.update_masks(model)
    model(normal(3, 8)).sum().backward()


def test_a_copy_of_a_packed_model_holds_nothing():
    model = sparse_net()
    st.pack_weights(model)
    assert any(holding(model))
    assert not any(holding(copy.deepcopy(model)))
