"""SparseLinear is the dense layer in everything but its products."""

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from nn_checks import normal, seeded, sparse_linear
from torch import nn

from sparsetrain.autograd import linear24
from sparsetrain.methods import SRSTE, SSTE, STE, WeightMethod
from sparsetrain.products import Engine
from sparsetrain.select import EXACT, ROW, Selection


def dense_layer(bias=True):
    return seeded(nn.Linear(8, 12, bias=bias))


def sparse_layer(
    method: WeightMethod | None = None, engine: Engine = "masked", selection: Selection = EXACT
) -> Any:
    return sparse_linear(dense_layer(), method, selection, engine)


# Conversion.


def test_the_parameters_are_shared_and_keep_their_names():
    dense = dense_layer()
    sparse = sparse_linear(dense)
    assert issubclass(type(sparse), nn.Linear)
    assert sparse.weight is dense.weight
    assert sparse.bias is dense.bias
    back = sparse.to_dense()
    assert type(back) is nn.Linear
    assert back.weight is dense.weight
    assert back.__dict__.keys() == dense.__dict__.keys()


def test_a_layer_without_bias_stays_without():
    sparse = sparse_linear(dense_layer(bias=False))
    assert sparse.bias is None
    assert sparse(normal(3, 8)).shape == (3, 12)


@pytest.mark.parametrize("training", [True, False])
def test_mode_and_the_users_own_attributes_are_kept_both_ways(training):
    dense = dense_layer().train(training)
    dense.note = "mine"
    sparse = sparse_linear(dense)
    back = sparse.to_dense()
    for layer in (sparse, back):
        assert layer.training == training
        assert layer.note == "mine"


def test_hooks_run_in_the_sparse_layer_and_again_in_the_dense_one():
    dense, calls = dense_layer(), []
    dense.register_forward_pre_hook(lambda *_: calls.append("before"))
    dense.register_forward_hook(lambda *_: calls.append("after"))
    dense.register_full_backward_hook(lambda *_: calls.append("backward"))
    sparse = sparse_linear(dense)
    x = normal(3, 8).requires_grad_()
    sparse(x).sum().backward()
    assert calls == ["before", "after", "backward"]
    sparse.to_dense()(x).sum().backward()
    assert len(calls) == 6


def test_a_hook_on_the_sparse_layer_is_not_one_on_the_dense_layer():
    dense, calls = dense_layer(), []
    sparse_linear(dense).register_forward_hook(lambda *_: calls.append("sparse"))
    dense(normal(3, 8))
    assert calls == []


def test_a_layer_compiled_before_does_not_go_on_running_dense():
    dense = dense_layer()
    dense.compile(backend="eager")
    x = normal(3, 8)
    dense(x)
    sparse = sparse_linear(dense)
    torch.testing.assert_close(sparse(x), linear24(x, dense.weight, dense.bias))


def test_the_parameters_keep_their_dtype_and_device():
    meta = sparse_linear(nn.Linear(8, 12, device="meta"), SSTE(), ROW)
    assert meta.weight.is_meta
    assert meta.scale is None
    half = sparse_linear(dense_layer().bfloat16())
    assert half(normal(3, 8).bfloat16()).dtype == torch.bfloat16


# State dicts and copies.


@pytest.mark.parametrize("method", [STE(), SRSTE(), SSTE()])
def test_the_state_dict_is_that_of_the_dense_layer_both_ways(method):
    dense = dense_layer()
    sparse = sparse_linear(copy.deepcopy(dense), method)
    sparse.update_mask()
    assert list(sparse.state_dict()) == list(dense.state_dict())
    for name, value in sparse.state_dict().items():
        assert torch.equal(value, dense.state_dict()[name])
    other = seeded(nn.Linear(8, 12), seed=1)
    sparse.load_state_dict(other.state_dict(), strict=True)
    assert torch.equal(sparse.weight, other.weight)
    dense.load_state_dict(sparse.state_dict(), strict=True)
    assert torch.equal(dense.weight, other.weight)


def test_nothing_is_a_buffer():
    sparse = sparse_layer(SSTE())
    sparse.update_mask()
    assert list(sparse.buffers()) == []


@pytest.mark.parametrize("method", [STE(), SSTE()])
@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
def test_a_copy_computes_the_same_and_is_its_own(method, how):
    sparse = sparse_layer(method)
    sparse.update_mask()
    x = normal(3, 8)
    if how == "deepcopy":
        other = copy.deepcopy(sparse)
    elif how == "pickle":
        other = pickle.loads(pickle.dumps(sparse))
    else:
        buffer = io.BytesIO()
        torch.save(sparse, buffer)
        buffer.seek(0)
        other = torch.load(buffer, weights_only=False)
    expected = sparse(x)
    torch.testing.assert_close(other(x), expected)
    with torch.no_grad():
        other.weight.neg_().add_(1)
    other.update_mask()
    torch.testing.assert_close(sparse(x), expected)
    assert not torch.equal(other.mask, sparse.mask)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_change_of_dtype_leaves_scale_and_mask_as_they_are(dtype):
    sparse = sparse_layer(SSTE())
    sparse.update_mask()
    assert sparse.scale is not None
    scale, mask = sparse.scale.clone(), sparse.mask.clone()
    assert scale != scale.bfloat16()
    sparse.to(dtype)
    assert sparse.weight.dtype == dtype
    assert sparse.scale.dtype == torch.float32
    assert torch.equal(sparse.scale, scale)
    assert torch.equal(sparse.mask, mask)
    assert sparse(normal(3, 8).to(dtype)).dtype == dtype


def test_mask_scale_and_flips_follow_the_layer_to_its_device():
    sparse = sparse_layer(SSTE())
    sparse.update_mask()
    sparse.update_mask()
    sparse.to("meta")
    assert sparse.mask.is_meta
    assert sparse.mask.dtype == torch.uint8
    assert sparse.scale.is_meta
    assert sparse.flipped.is_meta


def test_what_lay_on_the_meta_device_has_no_numbers_on_another():
    layer = sparse_layer(SSTE())
    layer.update_mask()
    weights = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    layer.to("meta").to_empty(device="cpu").load_state_dict(weights)
    assert layer.mask is None
    assert layer.scale is None
    layer.start()
    assert torch.equal(layer(normal(3, 8)), sparse_layer(SSTE())(normal(3, 8)))
