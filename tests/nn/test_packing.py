"""pack_weights: what is packed once serves many forwards, and nothing stale is multiplied by."""

from typing import Any

import pytest
import torch
from nn_checks import Net, layers, normal, seeded
from op_calls import OpCalls
from packing_checks import (
    BOTH,
    PACKING,
    assert_same_bits,
    change,
    engines,
    holding,
    kinds,
    packing_layers,
    sparse_net,
    step,
)
from torch import nn
from torch.utils.checkpoint import checkpoint

import sparsetrain as st

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
