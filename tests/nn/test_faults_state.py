"""Weights, masks and phases follow each other through ties, copies, loads and changes in place."""

import copy
from typing import Any

import pytest
import torch
from timm.utils.model_ema import ModelEmaV3
from torch import nn
from torch.optim.swa_utils import AveragedModel

import sparsetrain as st
from sparsetrain.schedule import Schedule


class Tied(nn.Module):
    """An embedding and a head on one weight."""

    def __init__(self):
        super().__init__()
        self.emb, self.mid = nn.Embedding(64, 16), nn.Linear(16, 16)
        self.head = nn.Linear(16, 64, bias=False)
        self.head.weight = self.emb.weight

    def forward(self, i):
        return self.head(self.mid(self.emb(i)))


class Conv1x1(nn.Module):
    """A convolution on the storage of a linear layer."""

    def __init__(self):
        super().__init__()
        self.fc, self.conv = nn.Linear(16, 16), nn.Conv1d(16, 16, 1)
        self.conv.weight = nn.Parameter(self.fc.weight.detach()[..., None])
        self.other = nn.Linear(16, 16)

    def forward(self, x):
        return self.other(self.fc(x) + self.conv(x[..., None])[..., 0])


class Two(nn.Module):
    """Two linear layers on one weight."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.c(self.b(self.a(x)))


class Transposed(Two):
    """Two linear layers whose weights share memory. The second weight is the first, transposed."""

    def __init__(self):
        super().__init__()
        self.b.weight = nn.Parameter(self.a.weight.detach().T)


class Shown(nn.Module):
    """A product with a buffer on the memory of a linear layer's weight."""

    def __init__(self):
        super().__init__()
        self.a, self.c = nn.Linear(16, 16), nn.Linear(16, 16)
        self.register_buffer("shown", self.a.weight.detach())

    def forward(self, x):
        return self.c(self.a(x) @ self.shown)


@pytest.mark.parametrize(
    ("model", "x", "exclude", "dense"),
    [
        (Tied(), torch.arange(8), (), {"head": "its weight is tied to emb, which stays dense"}),
        (
            Conv1x1(),
            torch.randn(2, 16),
            (),
            {"fc": "its weight is tied to conv, which stays dense"},
        ),
        (Two(), torch.randn(2, 16), ("b",), {"a": "its weight is tied to b, which stays dense"}),
        (Two(), torch.randn(2, 16), (), {}),
        (
            Transposed(),
            torch.randn(2, 16),
            (),
            {
                "a": "its weight shares memory with b in another layout",
                "b": "its weight is tied to a, which stays dense",
            },
        ),
        (
            Shown(),
            torch.randn(2, 16),
            (),
            {"a": "its weight is tied to shown, which stays dense"},
        ),
    ],
    ids=["embedding", "convolution", "excluded", "both", "transposed", "buffer"],
)
def test_a_shared_weight_is_sparse_in_all_its_layers_or_in_none(model, x, exclude, dense):
    report = st.sparsify(model.eval(), st.Sparsity(exclude=exclude))
    found = {row.name: row.reason for row in report.skipped if row.reason != "excluded"}
    assert found == dense
    y = model(x)
    st.densify(model, apply_masks=True)
    assert torch.equal(model(x), y)


def test_masks_are_not_written_into_a_weight_that_was_tied_later():
    model: Any = Tied()
    model.head.weight = nn.Parameter(torch.randn(64, 16))
    st.sparsify(model, st.Sparsity())
    model.head.weight = model.emb.weight
    with pytest.raises(ValueError, match=r"head\.weight is tied since sparsify to emb"):
        st.densify(model, apply_masks=True)
    assert isinstance(model.mid, st.SparseLinear)
    assert type(st.densify(model).head) is nn.Linear


def sparse(**schedule) -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    st.sparsify(model, st.Sparsity(schedule=Schedule(**schedule)))
    return model


def energy(model):
    return round(st.inspect(model)[0].kept_energy, 2)


def test_averages_of_weights_have_masks_of_their_own():
    model = sparse(mask_every=40)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    st.attach(model, optimizer)
    averages = [ModelEmaV3(model, decay=0.0), AveragedModel(model)]
    nn.init.normal_(model[0].weight)
    averages[0].update(model)
    averages[1].update_parameters(model)
    assert [energy(average.module.eval()) for average in averages] == [0.82, 0.82]


def test_averages_of_weights_are_in_the_phase_of_the_run():
    model = sparse(dense_tail=0.5)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    st.attach(model, optimizer, total_steps=4)
    average = ModelEmaV3(model)
    for _ in range(3):
        model(torch.randn(4, 64)).sum().backward()
        optimizer.step()
    assert not model[0].sparse
    assert not average.module[0].sparse
    assert st.density(average.module) == 1.0


def test_a_copy_that_is_attached_has_a_phase_of_its_own():
    model = sparse(dense_warmup=0.5)
    st.attach(model, torch.optim.SGD(model.parameters(), 0.1), total_steps=4)
    copied = copy.deepcopy(model)
    optimizer = torch.optim.SGD(copied.parameters(), 0.1)
    st.attach(copied, optimizer, total_steps=4)
    for _ in range(2):
        copied(torch.randn(4, 64)).sum().backward()
        optimizer.step()
    assert copied[0].sparse
    assert not model[0].sparse


def loaded(model):
    model.load_state_dict({k: torch.randn_like(v) for k, v in model.state_dict().items()})


def from_a_vector(model):
    count = sum(p.numel() for p in model.parameters())
    nn.utils.vector_to_parameters(torch.randn(count), model.parameters())


def in_place(model):
    with torch.no_grad():
        model[0].weight.normal_()


def through_data(model):
    model[0].weight.data.normal_()


def new_data(model):
    model[0].weight.data = torch.randn(64, 64)


def new_parameter(model):
    model[0].weight = nn.Parameter(torch.randn(64, 64))


CHANGES = [loaded, from_a_vector, in_place, through_data, new_data, new_parameter]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.filterwarnings("ignore:.*should not be instantiated")
def test_products_follow_weights_that_change_between_forwards(change, compiled):
    model = sparse()
    forward = torch.compile(model, backend="aot_eager") if compiled else model
    x = torch.randn(4, 64)
    forward(x)
    change(model)
    with torch.no_grad():
        h = nn.functional.linear(x, model[0].used_weight(), model[0].bias)
        y = nn.functional.linear(h, model[1].used_weight(), model[1].bias)
    assert torch.allclose(forward(x), y, atol=1e-5)
    assert energy(model) == pytest.approx(0.82, abs=0.02)


def test_a_loaded_state_dict_drops_masks_of_other_weights():
    model = sparse(mask_every=40)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    st.attach(model, optimizer)
    loaded(model)
    assert model[0].mask is None
    assert energy(model) == pytest.approx(0.82, abs=0.02)
    saved = st.sparse_state(model)
    assert saved["0"]["mask"] is None


def test_an_evaluation_chooses_masks_anew_and_training_keeps_them():
    model = sparse(mask_every=40)
    st.attach(model, torch.optim.SGD(model.parameters(), 0.1))
    kept = model[0].mask.clone()
    in_place(model)
    assert torch.equal(model[0].current_mask(), kept)
    model.eval()
    assert not torch.equal(model[0].current_mask(), kept)
    x = torch.randn(4, 64)
    y = model(x)
    model.train()
    st.densify(model, apply_masks=True)
    assert torch.equal(model.eval()(x), y)


def test_a_vector_is_multiplied_as_by_a_linear_layer():
    model = sparse()
    x = torch.randn(64)
    assert torch.allclose(model(x), model(x[None])[0])


def test_float64_stays_float64_under_autocast():
    model = sparse().double()
    x = torch.randn(4, 64, dtype=torch.float64)
    outside = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        inside = model(x)
    assert inside.dtype == torch.float64
    assert torch.equal(inside, outside)
    with pytest.raises(ValueError, match=r"x is torch\.float32 and weight torch\.float64"):
        model(x.float())


def test_packing_once_for_several_batches_gives_the_same_gradients():
    model, again = sparse(), sparse()
    batches = torch.randn(3, 4, 64)
    for x in batches:
        model(x).square().mean().backward()
    with st.packed_once(again):
        for x in batches:
            again(x).square().mean().backward()
    assert torch.equal(model[0].weight.grad, again[0].weight.grad)
    assert again[0].held is None
    with pytest.raises(RuntimeError, match="changed inside"), st.packed_once(again):
        in_place(again)
