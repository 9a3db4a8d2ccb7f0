"""Where pack_weights writes: to the same memory in each step, never under a backward."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from nn_checks import normal
from packing_checks import (
    BOTH,
    assert_same_bits,
    change,
    engines,
    kinds,
    packing_layers,
    sparse_net,
    step,
)
from sparsetrain.nn.packing import _write
from torch import nn

import sparsetrain as st


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
