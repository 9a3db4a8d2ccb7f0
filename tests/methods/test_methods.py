"""Training methods: what each type computes, describes and refuses."""

import pytest
import torch

from sparsetrain.autograd import linear24, soft_linear24, squared_relu_mlp24
from sparsetrain.methods import SRSTE, SSTE, STE, Activation24, add_pruned_decay
from sparsetrain.ops import select24
from sparsetrain.patterns import NM, RULES
from sparsetrain.reference.masks24 import pack_bits

GENERATOR = torch.Generator().manual_seed(0)
X, W, B = (torch.randn(s, generator=GENERATOR) for s in ((5, 8), (12, 8), (12,)))


@pytest.mark.parametrize("rule", RULES)
def test_ste_is_linear24_by_its_rule(rule):
    method = STE(rule)
    packed = method.pack(W, None, None, torch.float32, "masked")
    out = method.linear(X, W, B, packed, "masked")
    torch.testing.assert_close(out, linear24(X, W, B, rule=rule))


def test_ste_uses_the_mask_it_is_given():
    mask = select24(W.flip(1), "transposable")
    packed = STE().pack(W, mask, None, torch.float32, "masked")
    out = STE().linear(X, W, B, packed, "masked")
    torch.testing.assert_close(out, linear24(X, W, B, mask))


def test_s_ste_is_soft_linear24_by_its_scale():
    scale = torch.tensor([1.25])
    packed = SSTE().pack(W, None, scale, torch.float32, "masked")
    out = SSTE().linear(X, W, B, packed, "masked")
    torch.testing.assert_close(out, soft_linear24(X, W, B, scale))


def test_activation24_is_squared_relu_mlp24_by_its_rule():
    method = Activation24("row")
    packed = method.pack(W, W.T, None, None, torch.float32, "masked")
    out = method.mlp(X, W, B, W.T, None, packed, "masked")
    torch.testing.assert_close(out, squared_relu_mlp24(X, W, B, W.T, None, rule="row"))


@pytest.mark.parametrize("method", [STE(), STE("row"), SRSTE()])
def test_the_used_weight_of_ste_is_the_masked_one(method):
    used = method.weight24(W, select24(W, method.rule), None)
    assert NM(2, 4).holds(used)
    assert torch.equal(used[used != 0], W[used != 0])
    torch.testing.assert_close(X @ used.T + B, linear24(X, W, B, rule=method.rule))


def test_the_used_weight_of_s_ste_is_the_soft_one():
    w = torch.tensor([[3.0, -1, 2, 0.5], [-4.0, 3, -2, 1]])
    used = SSTE().weight24(w, select24(w, "row"), torch.tensor([2.0]))
    assert used.tolist() == [[4, 0, 2, 0], [-4, 2, 0, 0]]


def test_pruned_decay_by_hand():
    weight = torch.tensor([[1.0, -4, 3, 2]])
    mask = pack_bits(torch.tensor([[False, True, True, False]]))
    grad = torch.tensor([[10.0, 10, 10, 10]])
    add_pruned_decay(grad, weight, mask, 0.5)
    assert grad.tolist() == [[10.5, 10, 10, 11]]
    add_pruned_decay(grad, weight, mask, 0.5, torch.tensor(4.0))
    assert grad.tolist() == [[12.5, 10, 10, 15]]


def test_pruned_decay_of_a_kept_infinity_is_nothing():
    weight, grad = torch.tensor([[float("inf"), 4, 3, 2]]), torch.zeros(1, 4)
    add_pruned_decay(grad, weight, select24(weight, "row"), 1.0)
    assert grad.tolist() == [[0, 0, 3, 2]]


def test_the_methods_describe_themselves_in_a_few_words():
    assert STE().describe() == "2:4 weight, transposable, STE"
    assert STE("row", mvue=True).describe() == "2:4 weight, row, STE, MVUE"
    assert SRSTE().describe() == "2:4 weight, transposable, SR-STE 0.0002"
    assert SSTE().describe() == "2:4 weight, soft threshold, S-STE, MVUE"
    assert SSTE(mvue=False).describe() == "2:4 weight, soft threshold, S-STE"
    assert Activation24().describe() == "2:4 activation, transposable, squared ReLU"


@pytest.mark.parametrize("method", [STE, SRSTE, Activation24])
def test_an_unknown_rule_is_refused(method):
    with pytest.raises(
        ValueError, match="rule='best': choose one of transposable, transposable_l2, row, greedy"
    ):
        method("best")


@pytest.mark.parametrize("decay", [-1e-4, float("nan")])
def test_a_negative_decay_is_refused(decay):
    with pytest.raises(ValueError, match=f"decay={decay}: λ of SR-STE must be ≥ 0"):
        SRSTE(decay=decay)


@pytest.mark.parametrize("method", [STE(), SRSTE(), SSTE(), Activation24()])
def test_a_method_cannot_be_changed(method):
    with pytest.raises(AttributeError):
        method.decay = 1.0


def test_the_rule_of_s_ste_is_row():
    assert SSTE().rule == "row"
