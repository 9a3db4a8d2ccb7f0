"""SparseLinear is the dense layer in everything but its products."""

import copy
import io
import pickle
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nn_checks import normal, seeded
from torch import nn

from sparsetrain.autograd import PORTABLE_ENGINES, Engine, linear24, soft_linear24
from sparsetrain.methods import SRSTE, SSTE, STE, WeightMethod
from sparsetrain.nn import SparseLinear
from sparsetrain.ops import select24
from sparsetrain.select import RULES


def dense_layer(bias=True):
    return seeded(nn.Linear(8, 12, bias=bias))


def sparse_layer(method: WeightMethod | None = None, engine: Engine = "masked") -> Any:
    return SparseLinear.from_dense(dense_layer(), method or STE(), engine)


# Conversion.


def test_the_parameters_are_shared_and_keep_their_names():
    dense = dense_layer()
    sparse = SparseLinear.from_dense(dense, STE(), "masked")
    assert isinstance(sparse, nn.Linear)
    assert sparse.weight is dense.weight
    assert sparse.bias is dense.bias
    back = sparse.to_dense()
    assert type(back) is nn.Linear
    assert back.weight is dense.weight
    assert back.__dict__.keys() == dense.__dict__.keys()


def test_a_layer_without_bias_stays_without():
    sparse = SparseLinear.from_dense(dense_layer(bias=False), STE(), "masked")
    assert sparse.bias is None
    assert sparse(normal(3, 8)).shape == (3, 12)


@pytest.mark.parametrize("training", [True, False])
def test_mode_and_the_users_own_attributes_are_kept_both_ways(training):
    dense = dense_layer().train(training)
    dense.note = "mine"
    sparse = SparseLinear.from_dense(dense, STE(), "masked")
    back = sparse.to_dense()
    for layer in (sparse, back):
        assert layer.training == training
        assert layer.note == "mine"


def test_hooks_run_in_the_sparse_layer_and_again_in_the_dense_one():
    dense, calls = dense_layer(), []
    dense.register_forward_pre_hook(lambda *_: calls.append("before"))
    dense.register_forward_hook(lambda *_: calls.append("after"))
    dense.register_full_backward_hook(lambda *_: calls.append("backward"))
    sparse = SparseLinear.from_dense(dense, STE(), "masked")
    x = normal(3, 8).requires_grad_()
    sparse(x).sum().backward()
    assert calls == ["before", "after", "backward"]
    sparse.to_dense()(x).sum().backward()
    assert len(calls) == 6


def test_a_hook_on_the_sparse_layer_is_not_one_on_the_dense_layer():
    dense, calls = dense_layer(), []
    SparseLinear.from_dense(dense, STE(), "masked").register_forward_hook(
        lambda *_: calls.append("sparse")
    )
    dense(normal(3, 8))
    assert calls == []


def test_a_layer_compiled_before_does_not_go_on_running_dense():
    dense = dense_layer()
    dense.compile(backend="eager")
    x = normal(3, 8)
    dense(x)
    sparse = SparseLinear.from_dense(dense, STE(), "masked")
    torch.testing.assert_close(sparse(x), linear24(x, dense.weight, dense.bias))


def test_the_parameters_keep_their_dtype_and_device():
    meta = SparseLinear.from_dense(nn.Linear(8, 12, device="meta"), SSTE(), "masked")
    assert meta.weight.is_meta
    assert meta.scale is None
    half = SparseLinear.from_dense(dense_layer().bfloat16(), STE(), "masked")
    assert half(normal(3, 8).bfloat16()).dtype == torch.bfloat16


# State dicts and copies.


@pytest.mark.parametrize("method", [STE(), SRSTE(), SSTE()])
def test_the_state_dict_is_that_of_the_dense_layer_both_ways(method):
    dense = dense_layer()
    sparse = SparseLinear.from_dense(copy.deepcopy(dense), method, "masked")
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


# What it computes.


@pytest.mark.parametrize("engine", PORTABLE_ENGINES)
@pytest.mark.parametrize("rule", RULES)
def test_ste_is_linear24_with_its_rule(engine, rule):
    sparse, x = sparse_layer(STE(rule), engine), normal(2, 5, 8, seed=3)
    expected = linear24(x, sparse.weight, sparse.bias, rule=rule, engine=engine)
    torch.testing.assert_close(sparse(x), expected)


@pytest.mark.parametrize("engine", PORTABLE_ENGINES)
def test_s_ste_is_soft_linear24_with_its_scale(engine):
    sparse, x = sparse_layer(SSTE(), engine), normal(2, 5, 8, seed=3)
    expected = soft_linear24(x, sparse.weight, sparse.bias, sparse.scale, engine=engine)
    torch.testing.assert_close(sparse(x), expected)


@pytest.mark.parametrize("method", [STE("row", mvue=True), SSTE(mvue=True)])
def test_mvue_reaches_the_gradient(method):
    sparse, x = sparse_layer(method), normal(16, 8, seed=3)
    drawn = []
    for _ in range(2):
        sparse.weight.grad = None
        sparse(x).square().sum().backward()
        drawn.append(sparse.weight.grad)
    assert not torch.equal(*drawn)


@pytest.mark.parametrize("method", [STE(), SSTE()])
def test_a_dense_phase_is_the_dense_layer_exactly(method):
    sparse, x = sparse_layer(method), normal(5, 8, seed=3)
    sparse.sparse = False
    assert torch.equal(sparse(x), F.linear(x, sparse.weight, sparse.bias))
    assert torch.equal(sparse.used_weight(), sparse.weight)


@pytest.mark.parametrize("method", [STE(), STE("row"), SSTE()])
def test_the_used_weight_is_what_multiplies(method):
    sparse = sparse_layer(method)
    torch.testing.assert_close(sparse(torch.eye(8)) - sparse.bias, sparse.used_weight().T)


def test_without_an_update_the_mask_follows_the_weight():
    sparse = sparse_layer()
    before = sparse.current_mask()
    with torch.no_grad():
        sparse.weight.copy_(normal(12, 8, seed=7))
    assert sparse.mask is None
    assert not torch.equal(sparse.current_mask(), before)
    assert torch.equal(sparse.current_mask(), select24(sparse.weight.detach(), "transposable"))


def test_after_an_update_the_mask_stays_until_the_next():
    sparse = sparse_layer()
    sparse.update_mask()
    before = sparse.mask.clone()
    with torch.no_grad():
        sparse.weight.copy_(normal(12, 8, seed=7))
    assert torch.equal(sparse.current_mask(), before)
    x = normal(3, 8, seed=3)
    torch.testing.assert_close(sparse(x), linear24(x, sparse.weight, sparse.bias, before))
    sparse.update_mask()
    assert torch.equal(sparse.current_mask(), select24(sparse.weight.detach(), "transposable"))


def test_a_new_mask_reaches_a_compiled_layer():
    sparse, x = sparse_layer(), normal(3, 8, seed=3)
    sparse.update_mask()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*should not be instantiated")
        compiled = torch.compile(sparse, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), sparse(x))
        before = sparse(x)
        with torch.no_grad():
            sparse.weight.copy_(normal(12, 8, seed=7))
        sparse.update_mask()
        torch.testing.assert_close(compiled(x), sparse(x))
    assert (sparse(x) - before).abs().max() > 0.1


def test_the_layer_prints_its_pattern_engine_and_phase():
    sparse = sparse_layer(SRSTE(decay=6e-5), "native")
    text = "in_features=8, out_features=12, bias=True, 2:4 weight, transposable, SR-STE 6e-05"
    assert sparse.extra_repr() == f"{text}, engine=native"
    sparse.sparse = False
    assert sparse.extra_repr() == f"{text}, engine=native, now dense"


# The warning that SR-STE's other half is missing.


def test_training_without_the_decay_warns():
    with pytest.warns(UserWarning, match=r"call sparsetrain\.decay_pruned_weights"):
        sparse_layer(SRSTE())(normal(3, 8))


@pytest.mark.parametrize("why", ["eval", "no_grad", "dense", "attached", "decay 0", "STE"])
def test_nothing_warns_where_no_decay_is_due(why):
    sparse = sparse_layer({"decay 0": SRSTE(decay=0.0), "STE": STE()}.get(why, SRSTE())).train(
        why != "eval"
    )
    sparse.sparse = why != "dense"
    sparse.decay_attached = why == "attached"
    with warnings.catch_warnings(), torch.set_grad_enabled(why != "no_grad"):
        warnings.simplefilter("error")
        sparse(normal(3, 8))
