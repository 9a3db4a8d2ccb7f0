"""Training methods: what each type computes, describes and refuses."""

from typing import Any

import pytest
import torch

from sparsetrain.autograd import linear24, packed_linear
from sparsetrain.methods import SRSTE, SSTE, STE, STEP, Activation24, add_pruned_decay
from sparsetrain.nn.choose import describe
from sparsetrain.ops import select24
from sparsetrain.patterns import NM, Block
from sparsetrain.products import MASKED
from sparsetrain.reference.masks24 import pack_bits
from sparsetrain.select import EXACT, GREEDY, ROW, SQUARED

GENERATOR = torch.Generator().manual_seed(0)
X, W, B = (torch.randn(s, generator=GENERATOR) for s in ((5, 8), (12, 8), (12,)))


selections = pytest.mark.parametrize("selection", [EXACT, SQUARED, ROW, GREEDY], ids=str)


@selections
@pytest.mark.parametrize("given", [False, True], ids=["chosen", "given"])
def test_ste_is_linear24_under_its_mask(selection, given):
    mask = select24(W.flip(1), selection.rule) if given else None
    packed = STE().pack(W, mask, None, selection, MASKED, torch.float32)
    expected = linear24(X, W, B, mask, selection=selection)
    torch.testing.assert_close(packed_linear(X, W, B, packed), expected)


@selections
@pytest.mark.parametrize("method", [STE(), SRSTE()])
def test_the_used_weight_of_ste_is_the_masked_one(method, selection):
    used = method.weight24(W, select24(W, selection.rule), None)
    assert NM(2, 4).holds(used)
    assert torch.equal(used[used != 0], W[used != 0])
    torch.testing.assert_close(X @ used.T + B, linear24(X, W, B, selection=selection))


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
    what = describe(NM(), EXACT)
    assert STE().describe(what) == "2:4 weight, exact, STE"
    assert STE(mvue=True).describe(describe(NM(), ROW)) == "2:4 weight, row, STE, MVUE"
    squared = describe(NM(), SQUARED)
    assert SRSTE().describe(squared) == "2:4 weight, exact squared, SR-STE 2e-05"
    assert STEP().describe(describe(Block(), EXACT)) == "64×64-block 0.2 weight, STEP"
    assert SSTE().describe(what) == "2:4 weight, soft threshold, S-STE, MVUE"
    assert SSTE(mvue=False).describe(what) == "2:4 weight, soft threshold, S-STE"
    assert Activation24().describe() == "2:4 activation, exact, squared ReLU"
    assert Activation24(ROW).describe() == "2:4 activation, row, squared ReLU"


@pytest.mark.parametrize("decay", [-1e-4, float("nan")])
def test_a_negative_decay_is_refused(decay):
    with pytest.raises(ValueError, match=f"decay={decay}: λ of SR-STE is a number ≥ 0"):
        SRSTE(decay=decay)


@pytest.mark.parametrize("method", [STE(), SRSTE(), SSTE(), Activation24()])
def test_a_method_cannot_be_changed(method):
    with pytest.raises(AttributeError):
        method.decay = 1.0


def test_s_ste_packs_rows_whatever_mask_and_selection_say():
    scale = torch.tensor([1.25])
    packed = SSTE().pack(W, select24(W, "greedy"), scale, EXACT, MASKED, torch.float32)
    assert packed.spec.selection == ROW
    assert packed.dense is not None
    assert torch.equal(packed.dense, SSTE().weight24(W, W, scale))


def test_the_only_argument_without_a_name_is_the_decay():
    assert SRSTE(0.01) == SRSTE(decay=0.01)
    kinds: list[Any] = [STE, SSTE, STEP]
    for kind in kinds:
        with pytest.raises(TypeError, match="positional"):
            kind(True)
