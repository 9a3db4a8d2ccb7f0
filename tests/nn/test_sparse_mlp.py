"""SparseMlp is the MLP with squared ReLU whose hidden activations are 2:4."""

import copy
import pickle
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nn_checks import Mlp, engines, normal, seeded, sparse_linear
from op_calls import OpCalls
from torch import nn

from sparsetrain.autograd import compute_dtype, packed_squared_relu_mlp
from sparsetrain.methods import SRSTE, Activation24, WeightMethod
from sparsetrain.nn import Phase, SparseMlp, SquaredReLU, set_sparse
from sparsetrain.nn.structure import why_not
from sparsetrain.products import MASKED, Engine, Forms, pack, product_of, unpruned
from sparsetrain.schedule import Schedule
from sparsetrain.select import EXACT, ROW, Selection


def dense_mlp(drop=0.0):
    return seeded(Mlp(drop=drop))


def sparse_mlp(selection: Selection = EXACT, engine: Engine = "masked", drop=0.0) -> Any:
    activation, phase = Activation24(selection), Phase(Schedule())
    return SparseMlp.from_dense(dense_mlp(drop), activation, product_of(engine), phase)


def make_linears_sparse(mlp, engine: Engine = "masked", method: WeightMethod | None = None):
    mlp.fc1 = sparse_linear(mlp.fc1, method, engine=engine)
    mlp.fc2 = sparse_linear(mlp.fc2, method, engine=engine)


def expected_of(
    mlp, x, selection: Selection = EXACT, engine: Engine = "masked", masks=(None, None)
):
    """The function of the weights under masks; without one they are dense."""
    fc1, fc2 = mlp.fc1, mlp.fc2
    dtype, product = compute_dtype(x, fc1.weight), product_of(engine)
    packed = [
        unpruned(fc.weight.detach(), product, dtype)
        if mask is None
        else pack(fc.weight.detach(), mask, EXACT, product, dtype, Forms(True, True, True))
        for fc, mask in zip((fc1, fc2), masks, strict=True)
    ]
    return packed_squared_relu_mlp(
        x, fc1.weight, fc1.bias, fc2.weight, fc2.bias, *packed, selection=selection
    )


@engines
@pytest.mark.parametrize("selection", [EXACT, ROW], ids=str)
def test_the_forward_is_that_of_the_function_of_dense_weights(engine, selection):
    mlp, x = sparse_mlp(selection, engine), normal(2, 5, 8, seed=3)
    torch.testing.assert_close(mlp(x), expected_of(mlp, x, selection, engine))


def test_masks_of_sparse_linears_enter_the_products():
    mlp, x = sparse_mlp(), normal(2, 5, 8, seed=3)
    make_linears_sparse(mlp)
    masks = (mlp.fc1.current_mask(), mlp.fc2.current_mask())
    torch.testing.assert_close(mlp(x), expected_of(mlp, x, masks=masks))
    set_sparse(mlp.fc1, False)
    set_sparse(mlp.fc2, False)
    torch.testing.assert_close(mlp(x), expected_of(mlp, x))


@pytest.mark.parametrize("kept", ["neither", "fc1", "both"])
@pytest.mark.parametrize("autocast", [False, True])
def test_a_mask_that_is_not_kept_is_chosen_in_the_pass_that_packs(kept, autocast):
    mlp, x = sparse_mlp(engine="native"), normal(2, 5, 8, seed=3)
    make_linears_sparse(mlp, "native")
    for name in ("fc1", "fc2"):
        if kept in (name, "both"):
            getattr(mlp, name).update_mask()
    masks = (mlp.fc1.current_mask(), mlp.fc2.current_mask())
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        with OpCalls() as calls:
            y = mlp(x)
        assert torch.equal(y, expected_of(mlp, x, engine="native", masks=masks))
    assert calls.count("pack_into24") == 2
    assert calls.count("select24", "mask24") == 0


def test_a_dense_phase_is_the_mlp_with_squared_relu():
    mlp, x = sparse_mlp(), normal(2, 5, 8, seed=3)
    set_sparse(mlp, False)
    expected = mlp.fc2(F.relu(mlp.fc1(x)).square())
    assert torch.equal(mlp(x), expected)
    set_sparse(mlp, True)
    assert (mlp(x) - expected).abs().max() > 0.1


@pytest.mark.parametrize("sparse", [True, False])
def test_dropout_after_the_mlp_still_drops_in_training(sparse):
    mlp, x = sparse_mlp(drop=0.5), normal(40, 8, seed=3)
    set_sparse(mlp, sparse)
    torch.manual_seed(0)
    dropped = (mlp(x) == 0).float().mean()
    assert 0.3 < dropped < 0.7
    assert (mlp.eval()(x) != 0).all()


def test_parameters_hooks_and_mode_are_kept_both_ways():
    dense, calls = dense_mlp().eval(), []
    dense.register_forward_hook(lambda *_: calls.append("after"))
    mlp = SparseMlp.from_dense(dense, Activation24(), MASKED, Phase(Schedule()))
    assert mlp.fc1 is dense.fc1
    assert not mlp.training
    mlp(normal(3, 8))
    back = mlp.to_dense()
    assert type(back) is Mlp
    assert back.__dict__.keys() == dense.__dict__.keys()
    back(normal(3, 8))
    assert calls == ["after", "after"]


def test_going_back_keeps_squared_relu_and_leaves_the_old_module_its_activation():
    dense, x = dense_mlp(), normal(3, 8)
    back: Any = SparseMlp.from_dense(dense, Activation24(), MASKED, Phase(Schedule())).to_dense()
    assert isinstance(back.act, SquaredReLU)
    assert isinstance(dense.act, nn.GELU)
    assert torch.equal(back(x), back.fc2(F.relu(back.fc1(x)).square()))


def test_the_state_dict_is_that_of_the_dense_mlp_both_ways():
    dense, mlp = dense_mlp(), sparse_mlp()
    assert list(mlp.state_dict()) == list(dense.state_dict())
    other = seeded(Mlp(), seed=1)
    mlp.load_state_dict(other.state_dict(), strict=True)
    dense.load_state_dict(mlp.state_dict(), strict=True)
    assert torch.equal(dense.fc2.weight, other.fc2.weight)


class Named(Mlp):
    """An MLP with a method that its forward and other code call, and a property."""

    def hidden(self, x):
        return self.act(self.fc1(x))

    @property
    def width(self):
        return self.fc1.out_features

    def forward(self, x):
        return self.fc2(self.hidden(x))


@pytest.mark.parametrize(
    "copied", [lambda m: m, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))]
)
def test_it_stays_of_the_class_of_the_dense_mlp_with_its_methods(copied):
    dense, x = seeded(Named()), normal(3, 8)
    mlp = copied(SparseMlp.from_dense(dense, None, MASKED, Phase(Schedule())))
    assert isinstance(mlp, SparseMlp)
    assert isinstance(mlp, Named)
    assert mlp.width == 16
    assert torch.equal(mlp.hidden(x), dense.hidden(x))
    set_sparse(mlp, False)
    assert torch.equal(mlp(x), dense(x))
    assert type(mlp.to_dense()) is Named


def test_copies_compute_the_same():
    mlp, x = sparse_mlp(), normal(3, 8)
    for other in (copy.deepcopy(mlp), pickle.loads(pickle.dumps(mlp))):
        torch.testing.assert_close(other(x), mlp(x))
        assert other.fc1.weight is not mlp.fc1.weight


def test_a_new_mask_reaches_the_mlp():
    mlp, x = sparse_mlp(), normal(3, 8)
    mlp.fc1 = sparse_linear(mlp.fc1)
    mlp.fc1.update_mask()
    with torch.no_grad():
        mlp.fc1.weight.copy_(normal(16, 8, seed=7))
    mlp.fc1.update_mask()
    torch.testing.assert_close(mlp(x), expected_of(mlp, x, masks=(mlp.fc1.mask, None)))


def test_training_without_the_decay_warns_here_too():
    mlp = sparse_mlp()
    make_linears_sparse(mlp, method=SRSTE())
    with pytest.warns(UserWarning, match="decay is not attached"):
        mlp(normal(3, 8))


def test_the_module_prints_its_pattern_engine_and_phase():
    mlp = sparse_mlp(ROW, "native")
    assert mlp.extra_repr() == "2:4 activation, row, squared ReLU, engine=native"
    set_sparse(mlp, False)
    assert mlp.extra_repr().endswith(", now dense")


# What cannot become one.


class Scaled(nn.Linear):
    """A linear layer with a forward of its own."""

    def forward(self, input):
        return 2 * super().forward(input)


def gated():
    mlp = Mlp()
    mlp.fc1 = nn.Linear(8, 32)
    return mlp


def with_child(name, child):
    mlp = Mlp()
    mlp.add_module(name, child)
    return mlp


REFUSED = {
    r"gated \(fc1 gives more features": gated(),
    "further children: gate": with_child("gate", nn.Linear(8, 8)),
    "normalizes between": with_child("norm", nn.LayerNorm(16)),
    r"drops out between act and fc2 \(drop1": with_child("drop1", nn.Dropout(0.1)),
    r"drops out between act and fc2 \(drop\.": with_child("drop", nn.Dropout(0.1)),
    "18 features are not a multiple of 4": Mlp(hidden=18),
    "fc1 is Conv2d and fc2 Linear, not plain": with_child("fc1", nn.Conv2d(8, 16, 1)),
    "fc1 is Scaled and fc2 Linear, not plain": with_child("fc1", Scaled(8, 16)),
    "forward raises RuntimeError for": with_child("fc1", nn.Linear(8, 16).bfloat16()),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_become_one_function_is_told_with_the_reason(reason):
    assert re.search(reason, why_not(REFUSED[reason]))


def test_dropout_of_zero_between_and_an_identity_norm_are_no_obstacle():
    assert why_not(Mlp()) == ""
    assert why_not(with_child("drop", nn.Dropout(0.0))) == ""
