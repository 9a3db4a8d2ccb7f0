"""Which layers an attached optimizer advances: those it holds, those nobody holds, later ones."""

import copy
import io
import re
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nn_checks import Mlp
from torch import nn

import sparsetrain as st

api: Any = st  # to be called with what its types do not allow


class Layers(nn.Module):
    def __init__(self, count=2):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(count))

    def forward(self, x):
        for layer in self.layers:
            x = F.relu(layer(x))
        return x


def sparse(count=2, **fields) -> Any:
    torch.manual_seed(0)
    model = Layers(count)
    schedule = fields.pop("schedule", st.Schedule())
    st.sparsify(model, st.Sparsity(schedule=schedule, **fields))
    return model


def sgd(module, lr=0.1):
    return torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr)


def train(model, optimizer, steps=1):
    for _ in range(steps):
        model(torch.randn(8, 16)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def test_what_no_optimizer_holds_follows_the_phase_of_the_others():
    model = sparse(schedule=st.Schedule(dense_warmup=0.5, dense_tail=0.25))
    model.layers[0].requires_grad_(False)
    optimizer = sgd(model)
    st.attach(model, optimizer, total_steps=8)
    seen = []
    for _ in range(8):
        seen.append([layer.sparse for layer in model.layers])
        train(model, optimizer)
    assert seen == [[False] * 2] * 4 + [[True] * 2] * 2 + [[False] * 2] * 2


def test_an_optimizer_that_holds_no_sparse_weight_is_refused():
    model = sparse()
    biases = torch.optim.SGD([layer.bias for layer in model.layers], 0.1)
    for optimizer in (biases, [], sgd(Layers())):
        with pytest.raises(ValueError, match=r"holds the weight of layers\.0 and 1 more"):
            st.attach(model, optimizer)


def test_a_missing_optimizer_is_told_in_the_first_step_of_a_dense_warm_up():
    model = sparse(schedule=st.Schedule(dense_warmup=0.5))
    first = sgd(model.layers[0])
    st.attach(model, first, total_steps=8)
    with pytest.raises(RuntimeError, match=r"layers\.1\.weight trains, and no attached optimizer"):
        train(model, first)


def test_optimizers_attached_one_after_the_other_advance_their_own_layers():
    model = sparse(schedule=st.Schedule(dense_warmup=0.5))
    optimizers = [sgd(layer) for layer in model.layers]
    for optimizer in optimizers:
        st.attach(model, optimizer, total_steps=8)
    for _ in range(5):
        model(torch.randn(8, 16)).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert [layer.phase.step for layer in model.layers] == [5, 5]
    assert all(layer.sparse for layer in model.layers)


def test_an_optimizer_of_more_layers_goes_on_from_the_one_that_is_furthest():
    model = sparse(schedule=st.Schedule(dense_warmup=0.25))
    model.layers[0].requires_grad_(False)
    optimizer = sgd(model)
    st.attach(model, optimizer, total_steps=8)
    train(model, optimizer, 3)
    model.requires_grad_(True)
    run: Any = st.attach(model, sgd(model), total_steps=8)
    assert run.phase.step == 3
    assert run.phase.name == "sparse"


def test_frozen_masks_of_loaded_weights_are_chosen_once_and_stay():
    model = sparse(1, schedule=st.Schedule(freeze_at=0.25))
    optimizer = sgd(model, 10.0)
    st.attach(model, optimizer, total_steps=8)
    train(model, optimizer, 4)
    model.load_state_dict({k: torch.randn_like(v) for k, v in model.state_dict().items()})
    (layer,) = model.layers
    used = []
    for _ in range(3):
        used.append(layer.used_weight() != 0)
        train(model, optimizer)
    assert torch.equal(used[0], used[2])


def test_layers_that_join_after_masks_froze_have_frozen_masks():
    model = sparse(schedule=st.Schedule(freeze_at=0.25))
    model.layers[0].requires_grad_(False)
    optimizer = sgd(model, 10.0)
    st.attach(model, optimizer, total_steps=8)
    train(model, optimizer, 3)
    model.layers[0].requires_grad_(True)
    optimizer.add_param_group({"params": list(model.layers[0].parameters())})
    train(model, optimizer)
    mask = model.layers[0].mask.clone()
    train(model, optimizer, 2)
    assert torch.equal(model.layers[0].mask, mask)


@pytest.mark.parametrize("method", [st.STE(), st.RigL()], ids=str)
def test_masks_of_frozen_layers_last_as_long_as_those_of_the_others(method):
    model = sparse(
        pattern=st.Unstructured(0.1), weight=method, schedule=st.Schedule(mask_every=3, ramp=1.0)
    )
    model.layers[0].requires_grad_(False)
    before = model.layers[0].weight.clone()
    optimizer = sgd(model)
    st.attach(model, optimizer, total_steps=9)
    for _ in range(9):
        frozen, trains = (layer.used_weight() != 0 for layer in model.layers)
        assert frozen.sum() == trains.sum()
        train(model, optimizer)
    assert model.layers[0].mask is not None, "else every forward chooses it"
    assert torch.equal(model.layers[0].weight, before)


def test_a_longer_run_is_resumed_in_the_phase_that_its_schedule_says():
    schedule = st.Schedule(dense_tail=0.5)
    model = sparse(schedule=schedule)
    optimizer = sgd(model)
    run: Any = st.attach(model, optimizer, total_steps=4)
    train(model, optimizer, 4)
    assert run.phase.name == "dense_tail"
    state = run.state_dict()
    again = sparse(schedule=schedule)
    run = st.attach(again, sgd(again), total_steps=16)
    run.load_state_dict(state)
    assert (run.phase.step, run.phase.name) == (4, "sparse")


def test_the_state_of_a_run_that_has_not_begun_begins_with_the_warm_up():
    schedule = st.Schedule(dense_warmup=0.5)
    state = st.sparse_state(sparse(schedule=schedule))
    model = sparse(schedule=schedule)
    st.load_sparse_state(model, state)
    st.attach(model, sgd(model), total_steps=4)
    assert not any(layer.sparse for layer in model.layers)


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_a_copy_of_an_attached_model_warns_where_it_trains_without_its_decay(how):
    model = sparse(weight=st.SRSTE())
    optimizer = sgd(model)
    st.attach(model, optimizer)
    train(model, optimizer)
    copied = copy.deepcopy(model)
    if how == "pickle":
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        copied = torch.load(file, weights_only=False)
    with pytest.warns(UserWarning, match="SR-STE's decay is not attached"):
        train(copied, sgd(copied))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, optimizer)


def test_detaching_an_older_handle_leaves_the_check_of_a_newer_one():
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(16, 16)

        def forward(self, x):
            layer = self.fc
            return F.linear(x, layer.weight)

    model = nn.Sequential(Reads())
    st.sparsify(model, st.Sparsity())
    optimizer = sgd(model)
    older = st.attach(model, optimizer)
    st.attach(model, optimizer)
    older.detach()
    with pytest.raises(RuntimeError, match="reported sparse are not"):
        train(model, optimizer)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m, o: api.attach(m, o, total_steps="90"), "total_steps='90'"),
        (lambda m, o: api.attach(m, o, total_steps=7.5), "total_steps=7.5"),
        (lambda m, o: api.attach(m, o, total_steps=True), "total_steps=True"),
        (lambda m, o: api.Schedule(dense_warmup="0.1"), "dense_warmup='0.1'"),
        (lambda m, o: api.Schedule(mask_every=True), "mask_every=True"),
        (lambda m, o: api.Sparsity(include=None), "include=None: give a list of globs"),
        (lambda m, o: api.Sparsity(exclude=[0]), "exclude=[0]: give a list of globs"),
        (lambda m, o: api.Sparsity(weight="ste"), "weight='ste': give an instance"),
        (lambda m, o: api.Sparsity(activation="24"), "activation='24': give an instance"),
        (lambda m, o: api.Sparsity(format="fp8"), "format='fp8': give FP8"),
        (lambda m, o: api.Sparsity(schedule={"mask_every": 4}), "schedule={'mask_every': 4}"),
        (lambda m, o: api.SRSTE(decay="1e-4"), "decay='1e-4'"),
        (lambda m, o: api.SRSTE(decay=float("inf")), "decay=inf"),
        (lambda m, o: api.sparsify(m, "vit_b_24"), "sparsity='vit_b_24'"),
        (lambda m, o: api.sparsify(None, api.Sparsity()), "model is NoneType"),
    ],
)
def test_a_wrong_argument_is_named(call, said):
    model = sparse(1)
    with pytest.raises(ValueError, match=re.escape(said)):
        call(model, sgd(model))


def test_two_optimizers_of_one_weight_are_refused_in_one_call_and_follow_in_two():
    model = nn.Sequential(nn.Linear(16, 16))
    api.sparsify(model, api.Sparsity(schedule=api.Schedule(dense_tail=0.5)))
    adam, sgd = (kind(model.parameters(), lr=0.1) for kind in (torch.optim.Adam, torch.optim.SGD))
    with pytest.raises(ValueError, match="two that were given hold the weight of 0: give the one"):
        api.attach(model, [adam, sgd], total_steps=4)
    for optimizer in (adam, sgd):
        run = api.attach(model, optimizer, total_steps=4)
        model(torch.randn(4, 16)).sum().backward()
        optimizer.step()
    assert run.phase.step == 2


@pytest.mark.parametrize("steps", [0, 2])
def test_a_parameter_that_takes_the_place_of_a_held_one_is_told(steps):
    model = sparse()
    optimizer = sgd(model)
    st.attach(model, optimizer)
    train(model, optimizer, steps)
    model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
    with pytest.raises(RuntimeError, match=r"layers\.0\.weight trains, and no attached optimizer"):
        train(model, optimizer)


def test_a_block_that_was_added_without_its_optimizer_warns_that_its_schedule_is_not_followed():
    model, schedule = nn.Sequential(nn.Linear(16, 16)), st.Schedule(dense_warmup=0.5)
    st.sparsify(model, st.Sparsity(schedule=schedule))
    st.attach(model, torch.optim.SGD(model.parameters(), 0.1), total_steps=8)
    block = nn.Sequential(nn.Linear(16, 16))
    st.sparsify(block, st.Sparsity(schedule=schedule))
    with pytest.warns(UserWarning, match="the schedule is not attached .* dense phases never come"):
        model.append(block)(torch.randn(4, 16))


TOLD = r"^model: 2\.fc2 was made sparse, and replaced since by a dense layer: call sparsify after"


def three() -> Any:
    """A sparse layer, an MLP of two and a dense one."""
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), Mlp(32, 64), nn.Linear(32, 32))
    st.sparsify(model, st.Sparsity(exclude=("3",)))
    return model


def attach(model: Any) -> Any:
    return st.attach(model, torch.optim.SGD(model.parameters()))


@pytest.mark.parametrize(
    "wrap", [lambda model: model, torch.compile, lambda model: nn.ModuleDict({"model": model})]
)
def test_a_layer_that_was_replaced_by_a_dense_one_is_told(wrap):
    model = three()
    model[2].fc2 = nn.Linear(64, 32)
    with pytest.warns(UserWarning, match=TOLD):
        attach(wrap(model))


def test_one_that_was_replaced_after_an_attachment_or_a_phase_is_told_at_the_next():
    for before in (attach, lambda model: st.set_sparse(model, True)):
        model = three()
        before(model)
        model[2].fc2 = nn.Linear(64, 32)
        with pytest.warns(UserWarning, match=TOLD):
            attach(model)


def test_layers_that_moved_went_or_were_made_dense_on_purpose_are_not_told():
    def shorter(at):
        model = three()
        del model[at]
        return model

    def dense(part):
        model = three()
        st.densify(model[part])
        return model

    headless = three()
    headless[2].fc2 = nn.Identity()
    pickled = io.BytesIO()
    torch.save(three(), pickled)
    pickled.seek(0)
    again = torch.load(pickled, weights_only=False)
    models = [three(), nn.ModuleList([three(), three()]), headless, again, copy.deepcopy(three())]
    models += [shorter(0), shorter(1), shorter(2), dense(2)]
    for model in models:
        attach(model)
