"""`prune` on models: what it leaves behind trains, saves, exports, and goes on."""

import copy
from typing import Any

import pytest
import torch
from pruning_checks import normal
from torch import nn

import sparsetrain as st
from sparsetrain.nn.choose import choose_mask
from sparsetrain.pruning.statistics import Inputs

METHODS = [st.Magnitude(), st.WeightNorm(), st.Wanda(), st.SparseGPT()]
ROWS = st.Sparsity(selection=st.Selection("row"))
KINDS = [
    ROWS,
    st.Sparsity(),
    st.Sparsity(pattern=st.Block(8, 8, 0.25)),
    st.Sparsity(pattern=st.Unstructured(0.1)),
    st.Sparsity(pattern=st.Combined(st.Block(8, 8, 0.5))),
    st.Sparsity(pattern=st.VNM(8, 2, 8)),
]
every_method = pytest.mark.parametrize("method", METHODS, ids=str)


def make() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Dropout(0.5), nn.Linear(64, 16))


def batches(count=4):
    mix = normal(32, 32, seed=9)
    return [normal(16, 32, seed=number) @ mix for number in range(count)]


def data_for(method, refit=False):
    return batches() if method.reads != "nothing" or refit else None


def names(report):
    return [layer.name for layer in report.layers]


@every_method
@pytest.mark.parametrize("sparsity", KINDS, ids=lambda s: f"{s.pattern} {s.selection}")
def test_a_pruned_model_saves_loads_back_and_densifies(method, sparsity):
    model = make().train()
    report = st.prune(model, method, sparsity, calibration=data_for(method))
    assert names(report) == ["0", "3"]
    assert all(m.training for m in model.modules())
    model.eval()
    layers = model[0], model[3]
    for layer, row in zip(layers, report.layers, strict=True):
        assert sparsity.pattern.holds(layer.weight)
        assert torch.equal(layer.used_weight(), layer.weight)
        assert row.density == pytest.approx(sparsity.pattern.density, abs=1e-3)
    assert [stats.density for stats in st.inspect(model)] == [r.density for r in report.layers]
    other = make().eval()
    st.sparsify(other, sparsity)
    other.load_state_dict(model.state_dict())
    st.load_sparse_state(other, st.sparse_state(model))
    x = batches()[0]
    assert torch.equal(other(x), model(x))
    dense: Any = st.densify(copy.deepcopy(model), apply_masks=True)
    assert all(type(m) is not type(layers[0]) for m in dense.modules())
    torch.testing.assert_close(dense(x), model(x))


@every_method
@pytest.mark.parametrize("sequential", [True, False])
def test_refitting_lowers_the_error_of_the_output(method, sequential):
    x = torch.cat(batches())
    dense = make().eval()(x)
    errors = []
    for refit in (False, True):
        model = make().eval()
        data = data_for(method, refit)
        report = st.prune(model, method, ROWS, calibration=data, refit=refit, sequential=sequential)
        errors.append(float((model(x) - dense).detach().norm()))
    assert errors[1] < errors[0]
    assert all(layer.error is not None and layer.error < 0.7 for layer in report.layers)


def test_each_layer_sees_what_the_pruned_layers_before_it_give():
    model = make().eval()
    st.prune(model, st.SparseGPT(), ROWS, calibration=batches())
    hidden = nn.functional.gelu(model[0](torch.cat(batches()))).detach().double()
    one = Inputs(64, "gram", torch.device("cpu"))
    one.add(hidden)
    weight = make()[3].weight.detach()
    expected, _ = st.SparseGPT().prune(weight, one, st.NM(2, 4), st.Selection("row"))
    torch.testing.assert_close(model[3].weight.detach(), expected, rtol=1e-4, atol=1e-5)


def test_training_goes_on_under_the_masks_there_are():
    model = make()
    st.prune(model, st.Wanda(), calibration=batches())
    masks = [model[i].mask.clone() for i in (0, 3)]
    before = model[0].weight.detach().clone()
    for _ in range(2):  # runs
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        with st.attach(model, optimizer, total_steps=6):
            for x in batches(6):
                (model(x) - x[:, :16]).square().mean().backward()
                optimizer.step()
                optimizer.zero_grad()
    assert not torch.equal(model[0].weight, before)
    chosen_anew = choose_mask(model[0].weight, model[0].pattern, model[0].selection)
    assert not torch.equal(chosen_anew, masks[0]), "else this proves nothing"
    for mask, layer in zip(masks, (model[0], model[3]), strict=True):
        assert torch.equal(layer.mask, mask)
        for training in (True, False):
            layer.train(training)
            assert torch.equal(layer.current_mask(), mask)


def test_layers_that_read_one_tensor_share_a_pass_and_forwards_stop_behind_them():
    class Three(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.out = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
            self.ran = []

        def forward(self, x):
            self.ran.append("forward")
            y = self.q(x) + self.k(x)
            self.ran.append("between")
            y = self.out(y)
            self.ran.append("end")
            return y

    model = Three()
    st.prune(model, st.Wanda(), calibration=[normal(4, 8)])
    whole = ["forward", "between", "end"]
    assert model.ran == [*whole, "forward", "forward", "between"]
    model = Three()
    st.prune(model, st.Wanda(), calibration=[normal(4, 8)], sequential=False)
    assert model.ran == whole


def test_a_layer_that_is_called_twice_sees_both_inputs():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(8, 8)

        def forward(self, x):
            return self.inner(self.inner(x))

    torch.manual_seed(0)
    model = Twice()
    x = normal(5, 8)
    seen = torch.cat([x, model.inner(x)]).detach()
    weight = model.inner.weight.detach().clone()
    st.prune(model, st.Wanda(), calibration=[x])
    score = weight.abs() * seen.norm(dim=0)
    kept = score.unflatten(1, (-1, 4)).topk(2).values[..., 1:]
    assert torch.equal(model.inner.weight != 0, (score.unflatten(1, (-1, 4)) >= kept).flatten(1))


def test_parts_have_patterns_of_their_own_and_the_rest_stays_dense():
    parts = {"first": st.Part(("0",)), "second": st.Part(("3",), pattern=st.Block(8, 8, 0.5))}
    model = make()
    report = st.prune(model, st.Wanda(), st.Sparsity(parts=parts), calibration=batches())
    assert st.NM(2, 4).holds(model[0].weight.T)
    assert st.Block(8, 8, 0.5).holds(model[3].weight)
    model = make()
    report = st.prune(model, st.Magnitude(), st.Sparsity(exclude=("3",)))
    assert names(report) == ["0"]
    assert torch.equal(model[3].weight, make()[3].weight)
    assert [row.reason for row in report.sparsified.skipped] == ["excluded"]
    assert str(report).endswith("\ndense: 3, 16×64: excluded")


def test_layers_with_one_weight_have_one_mask():
    model: Any = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
    model[2].weight = model[0].weight
    report = st.prune(model, st.SparseGPT(), calibration=[normal(20, 8)])
    assert names(report) == ["0", "2"]
    assert torch.equal(model[0].mask, model[2].mask)
    assert torch.equal(model[0].used_weight(), model[2].used_weight())


class Stop(Exception):
    pass


def stopping_after(count):
    done = []

    def on_layer(layer, of):
        done.append(layer.name)
        assert of == 2
        if len(done) == count:
            raise Stop

    return on_layer, done


def test_an_interrupted_pruning_goes_on_and_ends_as_a_whole_one(tmp_path):
    whole = make()
    st.prune(whole, st.SparseGPT(), calibration=batches(), refit=True)
    folder = tmp_path / "layers"
    finished = st.FinishedLayers(folder, "four batches")
    on_layer, _ = stopping_after(1)
    options = {"calibration": batches(), "refit": True, "finished": finished}
    model = make()
    with pytest.raises(Stop):
        st.prune(model, st.SparseGPT(), on_layer=on_layer, **options)
    assert type(model[0]) is nn.Linear, "a dense model again"
    assert all(module.training for module in model.modules())
    assert sorted(path.name for path in folder.iterdir()) == ["00000.pt", "of.txt"]
    with pytest.raises(ValueError, match="holds layers of another pruning"):
        st.prune(make(), st.Wanda(), **options)
    model, on_layer = make(), stopping_after(9)[0]
    report = st.prune(model, st.SparseGPT(), on_layer=on_layer, **options)
    for one, other in zip(model.state_dict().values(), whole.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert all(layer.error for layer in report.layers)
    (folder / "00001.pt").write_bytes(b"cut short")
    with pytest.raises(ValueError, match=r"00001\.pt cannot be read: delete it"):
        st.prune(make(), st.SparseGPT(), **options)
    finished.delete()
    assert not folder.exists()


def test_a_failure_before_the_first_layer_changes_nothing():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return self.used(x)

    model = Unused()
    before = copy.deepcopy(model.state_dict())
    for sequential in (True, False):
        with pytest.raises(ValueError, match="no calibration batch reaches unused: exclude"):
            st.prune(model, st.Wanda(), calibration=[normal(4, 8)], sequential=sequential)
    with pytest.raises(ValueError, match=r"calibration is a tensor, one batch: .* as \[batch\]"):
        st.prune(model, st.Wanda(), calibration=normal(4, 8))
    with pytest.raises(ValueError, match="calibration has no batches"):
        st.prune(model, st.Wanda(), calibration=[])
    with pytest.raises(ValueError, match=r"used: its inputs are not finite"):
        st.prune(model, st.Wanda(), calibration=[normal(4, 8) / 0], sequential=False)
    assert type(model.used) is nn.Linear
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("odd", [torch.nan, torch.inf])
def test_a_weight_that_is_not_finite_is_named_and_nothing_changes(odd):
    model = make()
    with torch.no_grad():
        model.get_parameter("3.weight")[0, 0] = odd
    before = str(model)
    with pytest.raises(ValueError, match=r"^3\.weight has 1 values that are NaN or infinite"):
        st.prune(model, st.Magnitude())
    assert str(model) == before


def test_what_does_not_go_together_is_refused_in_a_line_that_says_what_does():
    model = make()
    with pytest.raises(ValueError, match=r"^calibration=None: Wanda reads the layers' inputs"):
        st.prune(model, st.Wanda())
    with pytest.raises(ValueError, match=r"^calibration=None: refit=True reads"):
        st.prune(model, st.Magnitude(), refit=True)
    with pytest.raises(ValueError, match=r"Magnitude looks at weights alone; leave it out"):
        st.prune(model, st.Magnitude(), calibration=batches())
    with pytest.raises(ValueError, match=r"calibration is an iterator, which one pass uses up"):
        st.prune(model, st.Wanda(), calibration=iter(batches()))
    with pytest.raises(ValueError, match=r"method=Wanda: give an instance, Wanda\(\)"):
        st.prune(model, st.Wanda, calibration=batches())  # pyright: ignore
    with pytest.raises(ValueError, match=r"method='wanda': give Magnitude\(\)"):
        st.prune(model, "wanda", calibration=batches())  # pyright: ignore
    with pytest.raises(ValueError, match=r"calibration='images': give batches, as a list"):
        st.prune(model, st.Wanda(), calibration="images")
    with pytest.raises(ValueError, match=r"sparsity=NM\(n=2, m=4\): give Sparsity\(pattern=NM"):
        st.prune(model, st.Magnitude(), st.NM(2, 4))  # pyright: ignore
    with pytest.raises(ValueError, match=r"weight=None prunes nothing"):
        st.prune(model, st.Magnitude(), st.Sparsity(weight=None))
    with pytest.raises(ValueError, match=r"^refit='no': give True or False"):
        st.prune(model, st.Magnitude(), refit="no", calibration=batches())  # pyright: ignore
    with pytest.raises(ValueError, match=r"^forward=3: give a function that takes the model and"):
        st.prune(model, st.Wanda(), calibration=batches(), forward=3)  # pyright: ignore
    with pytest.raises(ValueError, match=r"finished='out': give FinishedLayers\('out'\)"):
        st.prune(model, st.Magnitude(), finished="out")  # pyright: ignore
    with pytest.raises(ValueError, match=r"S-STE multiplies by other values"):
        st.prune(model, st.Magnitude(), st.Sparsity(weight=st.SSTE()))
    with pytest.raises(ValueError, match=r"activation=.*: prune is of weights"):
        st.prune(model, st.Magnitude(), st.Sparsity(activation=st.Activation24()))
    with pytest.raises(ValueError, match=r"0\.weight is on the meta device"):
        st.prune(make().to("meta"), st.Magnitude())
    st.prune(model, st.Wanda(), calibration=iter(batches()), sequential=False)
    before = str(model)
    with pytest.raises(ValueError, match="sparse already"):
        st.prune(model, st.Magnitude())
    assert str(model) == before
