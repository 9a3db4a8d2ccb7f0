"""`attach`: masks, phases and decay happen around the steps of the optimizer that really steps."""

import copy
import warnings
from typing import Any

import pytest
import torch
from nn_checks import Mlp
from timm.optim.lookahead import Lookahead
from torch import nn

import sparsetrain as st
from sparsetrain.schedule import Schedule

DECAY = 10.0


def sparse(*layers, **sparsity) -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(*(layers or (nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16))))
    st.sparsify(model, st.Sparsity(**sparsity))
    return model


def step(model, optimizer, factor=0.0):
    loss = model(torch.randn(8, 16)).square().mean() * factor
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss


def shrunk(model, before):
    """Mean of (w' - w) / w over what the mask of w prunes."""
    pruned = st.ops.mask24(torch.ones_like(before), st.ops.select24(before, "transposable")) == 0
    return ((model[0].weight - before) / before)[pruned].mean().item()


class Inner:
    """What wraps an optimizer without being one, as Accelerate and Lightning do."""

    def __init__(self, optimizer):
        self._optimizer = optimizer

    def step(self):
        self._optimizer.step()

    def zero_grad(self):
        self._optimizer.zero_grad()


class Sam(torch.optim.Optimizer):
    """Sharpness-aware minimization: weights are perturbed between two backwards."""

    def __init__(self, parameters, base):
        self.base_optimizer = base(parameters)
        super().__init__(parameters, {})
        self.param_groups = self.base_optimizer.param_groups

    def step(self, closure=None):
        self.base_optimizer.step()


WRAPPERS = {
    "plain": lambda ps: torch.optim.SGD(ps, 0.01),
    "Lookahead": lambda ps: Lookahead(torch.optim.SGD(ps, 0.01)),
    "SAM": lambda ps: Sam(ps, lambda p: torch.optim.SGD(p, 0.01)),
    "a wrapper that is no Optimizer": lambda ps: Inner(torch.optim.SGD(ps, 0.01)),
    "a wrapper in a wrapper": lambda ps: Inner(Lookahead(torch.optim.SGD(ps, 0.01))),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("times", [1, 2, 3])
def test_decay_comes_exactly_once(wrapper, times):
    model = sparse(nn.Linear(16, 32), weight=st.SRSTE(decay=DECAY))
    optimizer = WRAPPERS[wrapper](list(model.parameters()))
    for _ in range(times):
        st.attach(model, optimizer)
    before = model[0].weight.detach().clone()
    step(model, optimizer)
    assert shrunk(model, before) == pytest.approx(-0.01 * DECAY)


def test_an_optimizer_that_runs_no_hooks_is_refused():
    class Bare(torch.optim.Optimizer):
        def __init__(self, parameters):
            self.param_groups = [{"params": list(parameters)}]

        def step(self):
            pass

    model = sparse()
    with pytest.raises(ValueError, match="optimizer=Bare does not run the hooks of its step"):
        st.attach(model, Bare(model.parameters()))
    with pytest.raises(ValueError, match=r"optimizer=object is no torch\.optim\.Optimizer"):
        st.attach(model, object())  # pyright: ignore[reportArgumentType]


def test_a_dense_model_is_refused():
    model = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(ValueError, match="no sparse layers; call sparsify"):
        st.attach(model, torch.optim.SGD(model.parameters(), 0.1))


def test_a_schedule_in_fractions_needs_the_number_of_steps():
    model = sparse(schedule=Schedule(dense_tail=0.5))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(ValueError, match="total_steps=None"):
        st.attach(model, optimizer)
    with pytest.raises(ValueError, match="total_steps=0"):
        st.attach(model, optimizer, total_steps=0)


def test_phases_follow_the_optimizer_and_end_where_it_ends():
    model = sparse(schedule=Schedule(dense_warmup=0.25, dense_tail=0.25))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    attached: Any = st.attach(model, optimizer, total_steps=8)
    seen = []
    for _ in range(10):
        seen.append(attached.phase.name)
        step(model, optimizer)
    assert seen == ["dense_warmup"] * 2 + ["sparse"] * 4 + ["dense_tail"] * 4
    assert attached.phase.step == 10


def test_accumulated_batches_are_one_step():
    model = sparse(schedule=Schedule(dense_warmup=0.5))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    attached: Any = st.attach(model, optimizer, total_steps=4)
    for _ in range(3):
        for _ in range(4):
            model(torch.randn(8, 16)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert attached.phase.step == 3
    assert attached.phase.sparse


def test_each_optimizer_advances_its_own_layers():
    model = sparse(schedule=Schedule(dense_warmup=0.5))
    first = torch.optim.SGD(model[0].parameters(), 0.1)
    second = torch.optim.SGD(model[2].parameters(), 0.1)
    st.attach(model, [first, second], total_steps=4)
    for _ in range(2):
        step(model, first)
        model.zero_grad()
    assert model[0].sparse
    assert not model[2].sparse


def test_optimizers_in_the_backward_advance_each_layer():
    model = sparse(weight=st.SRSTE(decay=DECAY))
    optimizers = {p: torch.optim.SGD([p], 0.01) for p in model.parameters()}

    def update(parameter):
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(update)
    st.attach(model, list(optimizers.values()))
    before = model[0].weight.detach().clone()
    (model(torch.randn(8, 16)).sum() * 0).backward()
    assert shrunk(model, before) == pytest.approx(-0.01 * DECAY)
    assert model[0].phase.step == model[2].phase.step == 1


@pytest.mark.parametrize("fused", [False, True])  # fused ones are called, and do nothing
def test_a_step_that_a_grad_scaler_skips_counts_for_nothing(fused):
    model = sparse()
    optimizer = torch.optim.AdamW(model.parameters(), 0.1, fused=fused)
    attached: Any = st.attach(model, optimizer, total_steps=4)
    scaler = torch.amp.grad_scaler.GradScaler("cpu", init_scale=2.0)
    for factor in (float("inf"), 1.0):
        loss = model(torch.randn(8, 16)).square().mean() * factor
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    assert attached.phase.step == 1


@pytest.mark.parametrize("how", ["added", "in place of others"])
def test_parameters_that_an_optimizer_takes_later_are_found(how):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = sparse(nn.Linear(16, 32), nn.Linear(32, 16), weight=st.SRSTE(decay=DECAY))
        optimizer = torch.optim.SGD(model[1].parameters(), 0.01)
        st.attach(model, optimizer)
        if how == "added":
            optimizer.add_param_group({"params": list(model[0].parameters())})
        else:
            optimizer.param_groups[0]["params"] = list(model[0].parameters())
            model[1].requires_grad_(False)
        before = model[0].weight.detach().clone()
        step(model, optimizer)
    assert shrunk(model, before) == pytest.approx(-0.01 * DECAY)


def test_a_weight_that_no_attached_optimizer_holds_is_an_error():
    model = sparse(nn.Linear(16, 32), nn.Linear(32, 16))
    st.attach(model, torch.optim.SGD(model[1].parameters(), 0.01))
    other = torch.optim.SGD(model[1].parameters(), 0.01)
    st.attach(model, other)
    with pytest.raises(RuntimeError, match=r"0\.weight trains, and no attached optimizer holds it"):
        step(model, other)


@pytest.mark.parametrize("warmup", [0.0, 0.5])
def test_a_missing_optimizer_is_told_although_another_loop_zeroes_its_gradients(warmup):
    model = sparse(nn.Linear(16, 16), nn.Linear(16, 16), schedule=Schedule(dense_warmup=warmup))
    first, last = (torch.optim.SGD(layer.parameters(), 0.1) for layer in model)
    attached: Any = st.attach(model, first, total_steps=8)
    step(model[0], first)
    while not attached.phase.sparse:
        step(model[1], last)
        step(model[0], first)
    step(model[1], last)
    with pytest.raises(RuntimeError, match=r"1\.weight trains, and no attached optimizer holds it"):
        step(model[0], first)


def test_a_weight_that_a_parametrization_computes_follows_the_schedule():
    model = sparse(schedule=Schedule(dense_tail=0.5))
    nn.utils.parametrizations.weight_norm(model[0])
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    st.attach(model, optimizer, total_steps=2)
    assert model[0].sparse
    step(model, optimizer, 1.0)
    assert not model[0].sparse


def test_an_adapted_mlp_follows_the_optimizer_of_its_adapters():
    class LoRA(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base_layer = base.requires_grad_(False)
            self.up, self.down = nn.Linear(16, 2), nn.Linear(2, 32)

        def forward(self, x):
            return self.base_layer(x) + self.down(self.up(x))

    model = sparse(Mlp(16, 32), activation=st.Activation24(), schedule=Schedule(dense_tail=0.5))
    model[0].fc1 = LoRA(model[0].fc1)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    st.attach(model, optimizer, total_steps=2)
    with pytest.warns(UserWarning, match="hidden activations stay dense: fc1 is LoRA now"):
        step(model, optimizer, 1.0)
    assert not model[0].sparse


def test_a_frozen_weight_needs_no_optimizer():
    model = sparse(nn.Linear(16, 32), nn.Linear(32, 16))
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model[1].parameters(), 0.01)
    attached: Any = st.attach(model, optimizer)
    step(model, optimizer)
    assert attached.phase.step == 1


def test_where_all_weights_are_frozen_the_steps_of_the_first_optimizer_count():
    model = sparse(schedule=Schedule(dense_warmup=0.25, dense_tail=0.25))
    adapter = nn.Linear(16, 2)
    model.requires_grad_(False)
    optimizer = torch.optim.SGD(adapter.parameters(), 0.1)
    attached: Any = st.attach(model, optimizer, total_steps=4)
    phases = []
    for _ in range(4):
        phases.append(attached.phase.name)
        adapter(model(torch.randn(4, 16))).sum().backward()
        optimizer.step()
    assert phases == ["dense_warmup", "sparse", "sparse", "dense_tail"]
    again: Any = st.attach(model, optimizer, total_steps=4)
    assert again.phase.step == 4
    model.requires_grad_(True)
    optimizer.add_param_group({"params": model.parameters()})
    step(model, optimizer)
    assert again.phase.step == 5


def test_a_frozen_model_without_any_optimizer_stays_sparse():
    model = sparse()
    model.requires_grad_(False)
    attached: Any = st.attach(model, [])
    assert attached.phase is None
    assert model[0].phase.sparse


def test_masks_are_chosen_when_they_are_due_and_kept_between():
    model = sparse(schedule=Schedule(mask_every=3))
    optimizer = torch.optim.SGD(model.parameters(), 5.0)
    attached: Any = st.attach(model, optimizer)
    masks, steps = [], []
    for _ in range(7):
        masks.append(model[0].mask.clone())
        steps.append(attached.phase.masks_step)
        step(model, optimizer, factor=1.0)
    assert steps == [0, 0, 0, 3, 3, 3, 6]
    assert torch.equal(masks[0], masks[2])
    assert torch.equal(masks[3], masks[5])
    assert not torch.equal(masks[2], masks[3])


def test_frozen_masks_stay_in_training_and_evaluation():
    model = sparse(schedule=Schedule(freeze_at=0.0))
    optimizer = torch.optim.SGD(model.parameters(), 5.0)
    st.attach(model, optimizer, total_steps=5)
    first = model[0].mask.clone()
    for _ in range(3):
        step(model, optimizer, factor=1.0)
    nn.init.normal_(model[0].weight)
    assert torch.equal(model[0].mask, first)
    assert torch.equal(model.eval()[0].current_mask(), first)


def test_new_optimizers_go_on_from_where_the_last_was():
    model = sparse(schedule=Schedule(dense_warmup=0.5, mask_every=40))
    for _ in range(2):
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        attached: Any = st.attach(model, optimizer, total_steps=8)
        for _ in range(3):
            step(model, optimizer)
    assert attached.phase.step == 6
    assert attached.phase.sparse


def test_after_detach_a_run_begins_anew():
    model = sparse(weight=st.SRSTE(decay=DECAY), schedule=Schedule(dense_warmup=0.5))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with st.attach(model, optimizer, total_steps=2):
        step(model, optimizer)
    before = model[0].weight.detach().clone()
    with pytest.warns(UserWarning, match="decay is not attached"):
        step(model, optimizer)
    assert torch.equal(model[0].weight, before), "no decay is left"
    again: Any = st.attach(model, optimizer, total_steps=2)
    assert again.phase.step == 0


@pytest.mark.parametrize("load_first", [True, False])
def test_a_loop_resumes_exactly(load_first):
    def run(model, optimizer, first, last):
        for i in range(first, last):
            torch.manual_seed(i)
            step(model, optimizer, factor=1.0)

    sparsity = {"weight": st.SRSTE(decay=0.1), "schedule": Schedule(0.25, 0.25, mask_every=3)}
    model = sparse(**sparsity)
    optimizer = torch.optim.SGD(model.parameters(), 0.5, momentum=0.9)
    attached: Any = st.attach(model, optimizer, total_steps=8)
    run(model, optimizer, 0, 4)
    saved = copy.deepcopy([model.state_dict(), optimizer.state_dict(), attached.state_dict()])
    run(model, optimizer, 4, 8)

    again = sparse(**sparsity)
    nn.init.zeros_(again[0].weight)
    again.load_state_dict(saved[0])
    resumed = torch.optim.SGD(again.parameters(), 0.5, momentum=0.9)
    resumed.load_state_dict(saved[1])
    if load_first:
        st.load_sparse_state(again, saved[2])
        st.attach(again, resumed, total_steps=8)
    else:
        st.attach(again, resumed, total_steps=8).load_state_dict(saved[2])
    run(again, resumed, 4, 8)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True)
    )
    assert st.sparse_state(again)["0"]["step"] == 8


def test_sste_takes_beta_when_the_sparse_phase_begins_and_keeps_it_where_it_is():
    model = sparse(weight=st.SSTE(), schedule=Schedule(dense_warmup=0.5))
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    st.attach(model, optimizer, total_steps=4)
    place, before = model[0].scale.data_ptr(), model[0].scale.clone()
    with torch.no_grad():
        model[0].weight.pow_(3)
    for _ in range(3):
        step(model, optimizer, factor=1.0)
    assert model[0].scale.data_ptr() == place
    assert not torch.equal(model[0].scale, before)


def test_the_closure_of_a_step_decays_after_its_backward():
    model = sparse(nn.Linear(16, 32), weight=st.SRSTE(decay=DECAY))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    st.attach(model, optimizer)
    before = model[0].weight.detach().clone()

    def closure():
        optimizer.zero_grad()
        loss = model(torch.randn(8, 16)).sum() * 0
        loss.backward()
        return loss

    optimizer.step(closure)
    assert shrunk(model, before) == pytest.approx(-0.01 * DECAY)


def test_decay_that_nothing_attached_warns():
    model = sparse(weight=st.SRSTE(decay=DECAY))
    with pytest.warns(UserWarning, match="decay is not attached"):
        model(torch.randn(8, 16))
    st.attach(model, torch.optim.SGD(model.parameters(), 0.01))
    model(torch.randn(8, 16))


def test_an_evaluation_runs_in_the_phase_that_was_trained_last():
    model = sparse(schedule=Schedule(dense_warmup=0.25, dense_tail=0.25))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    st.attach(model, optimizer, total_steps=4)
    trained, evaluated = [], []
    for _ in range(4):
        trained.append(model.train()[0].sparse)
        step(model, optimizer)
        evaluated.append(model.eval()[0].sparse)
    assert trained == evaluated == [False, True, True, False]
