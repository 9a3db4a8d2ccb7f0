"""st.quantize: which layers are packed, what the model computes then, what is refused."""

import copy
import re
from typing import Any

import pytest
import torch
from nn_checks import Mlp, Net, normal, seeded
from op_calls import OpCalls
from torch import nn

import sparsetrain as st
from sparsetrain.inference import DTYPES, PackedLinear, PackedMlp, engine, packed_linears
from sparsetrain.native import Library
from sparsetrain.nn import sparsify
from sparsetrain.nn.engine import Engines
from sparsetrain.reference.gelu import APPROXIMATIONS

E4M3 = torch.float8_e4m3fn
MLP = ("mlp*",)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def pruned(include=MLP) -> Any:
    net = seeded(Net())
    st.prune(net, st.Magnitude(), st.Sparsity(include))
    return net.eval()


def outputs(net, dtype):
    """Of 8-bit weights in float32, else in the dtype of the weights."""
    x = normal(64, 8)
    if dtype in (torch.bfloat16, torch.float16):
        net, x = copy.deepcopy(net).to(dtype), x.to(dtype)
    with torch.inference_mode():
        return net(x).float()


def distance(found, exact):
    return float((found - exact).norm() / exact.norm())


@dtypes
def test_a_pruned_model_computes_nearly_what_it_did_and_dense_layers_stay(dtype):
    net = pruned()
    exact = outputs(net, torch.float32)
    report = st.quantize(net, dtype)
    assert list(packed_linears(net)) == ["mlp.fc1", "mlp.fc2"]
    assert [type(m) for m in (net.embed, net.head)] == [nn.Linear, nn.Linear]
    error = distance(outputs(net, dtype), exact)
    assert error < {E4M3: 0.08, torch.int8: 0.03}.get(dtype, 0.01)
    assert [row.name for row in report.converted] == ["mlp.fc1", "mlp.fc2"]
    assert "its weight is not 2:4 along its rows in" in str(report)
    assert "native: its definition in plain PyTorch" in str(report)
    assert not any(p.requires_grad for p in net.parameters())
    assert not net.training


@pytest.mark.parametrize("engine", ["masked", "native"])
def test_a_trained_model_is_what_it_is_evaluated_as(engine):
    net = seeded(Net())
    sparsify(net, st.Sparsity(MLP, weight=st.SSTE()), engine=engine, on_cpu=True)
    net.train()
    evaluated = net.mlp.fc1.evaluated_weight().clone()
    st.quantize(net, torch.float16)
    expected = PackedLinear.pack(evaluated, None, torch.float16)
    assert torch.equal(net.mlp.fc1.values, expected.values)
    assert torch.equal(net.mlp.fc1.meta, expected.meta)


@pytest.mark.parametrize("approximate", APPROXIMATIONS)
def test_mlps_that_were_one_function_stay_one_in_16_bits(approximate):
    net = seeded(Net())
    net.mlp.act = nn.GELU(approximate)
    sparsify(net, st.Sparsity(MLP), engine="native", on_cpu=True)
    net.eval()
    exact = outputs(net, torch.bfloat16)
    report = st.quantize(net, torch.bfloat16)
    at_end = approximate == "none"
    where = "at the end of fc1" if at_end else "in one pass"
    assert report.fused == f"1 MLP: GELU {where}."
    assert isinstance(net.mlp, PackedMlp)
    assert isinstance(net.mlp, Mlp), "models ask for its class, and call its methods"
    with OpCalls() as calls:
        found = outputs(net, torch.bfloat16)
    assert calls.names == ["matmul24", *([] if at_end else ["gelu"]), "matmul24"]
    torch.testing.assert_close(found, exact, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("approximate", APPROXIMATIONS)
def test_in_int8_an_mlp_is_one_function_whose_gelu_is_quantized_in_one_pass(approximate):
    net = pruned()
    net.mlp.act = nn.GELU(approximate)
    report = st.quantize(net, torch.int8)
    assert report.fused == "1 MLP: GELU where fc2's input is quantized."
    mlp: Any = net.mlp
    assert isinstance(mlp, PackedMlp)
    x = normal(64, 8)
    with torch.inference_mode():
        with OpCalls() as calls:
            found = mlp(x)
        expected = mlp.dense_class.forward(mlp, x)
    assert calls.names == ["quantize", "scaled_matmul24", "gelu_quantize", "scaled_matmul24"]
    assert torch.equal(found, expected), "in float32 nothing is rounded that the children keep"


@pytest.mark.parametrize("approximate", APPROXIMATIONS)
def test_in_fp8_the_product_of_fc1_ends_with_gelu_in_8_bits(approximate):
    net: Any = seeded(nn.Sequential(Mlp(64, 256)))
    net[0].act = nn.GELU(approximate)
    st.prune(net, st.Magnitude(), st.Sparsity(("0.*",)))
    mlp, x = net.eval()[0], normal(64, 64)
    exact = mlp(x).detach()
    report = st.quantize(net, E4M3)
    assert report.fused == "1 MLP: GELU at the end of fc1."
    mlp = net[0]
    with torch.inference_mode():
        with OpCalls() as calls:
            found = mlp(x)
        apart = mlp.dense_class.forward(mlp, x)
    assert calls.names == ["quantize", "scaled_gelu_matmul24", "scaled_matmul24"]
    assert distance(found, exact) < 1.1 * distance(apart, exact)


@pytest.mark.parametrize(
    ("dtype", "hidden", "between"),
    [(E4M3, 72, "gelu_quantize"), (torch.bfloat16, 60, "gelu"), (torch.bfloat16, 72, None)],
    ids=str,
)
def test_gelu_is_between_the_products_where_their_end_would_be_slow(dtype, hidden, between):
    net: Any = seeded(nn.Sequential(Mlp(64, hidden))).to(torch.bfloat16)
    st.prune(net, st.Magnitude(), st.Sparsity(("0.*",)))
    st.quantize(net.eval(), dtype)
    with torch.inference_mode(), OpCalls() as calls:
        net(normal(8, 64).bfloat16())
    assert calls.names.count("scaled_gelu_matmul24") == 0
    assert [name for name in calls.names if name.startswith("gelu")] == [between] * bool(between)


def test_scales_from_a_bound_hold_every_row_and_rows_of_zeros():
    fc1 = PackedLinear.pack(normal(24, 16) * torch.tensor([1.0, 1, 0, 0] * 4), normal(24), E4M3)
    x = torch.cat((normal(5, 16), torch.zeros(1, 16), 1e4 * normal(1, 16), 1e-6 * normal(1, 16)))
    q, scales = fc1.gelu_of_rows(*fc1.rows_of(x), "none")
    z = fc1.of_rows(*fc1.rows_of(x), torch.float32)
    assert (z.abs().amax(1) <= 448 * scales[:, 0]).all()
    torch.testing.assert_close(q.float() * scales, nn.functional.gelu(z), rtol=0.07, atol=1e-3)
    nothing = PackedLinear.pack(torch.zeros(4, 16), None, E4M3)
    q, scales = nothing.gelu_of_rows(*nothing.rows_of(x), "none")
    assert not q.float().any()
    assert scales.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, E4M3], ids=str)
def test_a_changed_child_of_such_an_mlp_is_called(dtype):
    net = pruned()
    st.quantize(net, dtype)
    expected = outputs(net, dtype)
    seen = []
    handle = net.mlp.fc1.register_forward_hook(lambda *given: seen.append(given))
    assert distance(outputs(net, dtype), expected) < 0.05
    assert len(seen) == 1
    handle.remove()
    net.mlp.act = nn.Tanh()
    assert distance(outputs(net, dtype), expected) > 0.5


@pytest.mark.parametrize("dtype", [torch.bfloat16, E4M3], ids=str)
@pytest.mark.parametrize("name", ["drop1", "drop2"])
def test_dropout_that_is_on_in_evaluation_drops_out_where_it_is(dtype, name):
    net = pruned()
    st.quantize(net, dtype)
    mlp, x = net.mlp, normal(64, 8).to(torch.bfloat16)
    expected = mlp(x)
    getattr(mlp, name).train().p = 0.5
    torch.manual_seed(0)
    y = mlp(x)
    torch.manual_seed(0)
    assert torch.equal(y, mlp.dense_class.forward(mlp, x))
    assert (y - expected).abs().max() > 0.1


def test_an_mlp_that_was_trained_with_dropout_is_one_function_in_evaluation():
    net = pruned()
    net.mlp.drop1.p = net.mlp.drop2.p = 0.1
    exact = outputs(net, torch.float32)
    st.quantize(net)
    assert isinstance(net.mlp, PackedMlp)
    assert (outputs(net, E4M3) - exact).norm() < 0.08 * exact.norm()


def test_a_model_that_is_quantized_in_inference_mode_loads_a_state_dict_outside():
    net, other = pruned(), pruned()
    with torch.inference_mode():
        st.quantize(net)
    st.quantize(other)
    net.load_state_dict(other.state_dict())
    assert torch.equal(outputs(net, E4M3), outputs(other, E4M3))


def test_an_activation_that_takes_two_dimensions_alone_is_called():
    net = pruned()
    net.mlp.act = nn.PReLU(16)
    exact = outputs(net, torch.float32)
    st.quantize(net)
    assert list(packed_linears(net)) == ["mlp.fc1", "mlp.fc2"]
    assert (outputs(net, E4M3) - exact).norm() < 0.08 * exact.norm()


def test_an_mlp_whose_second_dropout_is_none_is_one_function():
    class Bare(Mlp):
        def forward(self, x):
            return self.fc2(self.act(self.fc1(x)))

    net = pruned()
    net.mlp.__class__, net.mlp.drop2 = Bare, None
    exact = outputs(net, torch.float32)
    st.quantize(net)
    assert isinstance(net.mlp, PackedMlp)
    assert (outputs(net, E4M3) - exact).norm() < 0.08 * exact.norm()


def test_squared_relu_of_2_of_4_activations_is_dense_and_the_report_says_so():
    net = seeded(Net())
    sparsify(net, st.Sparsity(MLP, activation=st.Activation24()), on_cpu=True)
    dense = st.densify(copy.deepcopy(net), apply_masks=True).eval()
    report = st.quantize(net)
    assert report.notes == ("The squared ReLU of the MLPs is dense.",)
    exact = outputs(dense, torch.float32)
    assert (outputs(net, E4M3) - exact).norm() < 0.1 * exact.norm()


def test_functions_for_layers_that_train_refuse_a_packed_model():
    net, other = pruned(), Net()
    st.quantize(net)
    packed, before = (
        r"mlp.fc1 is packed for inference .* work on the model that it was packed",
        str(net),
    )
    for call in (
        lambda: sparsify(net, st.Sparsity(MLP)),
        lambda: sparsify(net, st.Sparsity()),
        lambda: st.densify(net),
        lambda: st.densify(net, apply_masks=True),
        lambda: st.prune(net, st.Magnitude()),
        lambda: st.permute(net),
        lambda: st.attach(net, torch.optim.SGD(net.parameters())),
        lambda: st.inspect(net),
        lambda: st.density(net),
        lambda: st.set_sparse(net, False),
        lambda: st.check_tensorrt(net),
    ):
        with pytest.raises(ValueError, match=packed):
            call()
    assert str(net) == before
    # A packed teacher beside what trains.
    both = nn.ModuleDict({"student": other, "teacher": net})
    report = sparsify(both, st.Sparsity(("student*",)), on_cpu=True)
    reasons = {row.name: row.reason for row in report.skipped}
    assert reasons["teacher.mlp.fc1"] == "it is packed for inference"
    st.densify(both)
    assert type(other.mlp.fc1) is nn.Linear
    assert isinstance(net.mlp.fc1, PackedLinear)


def test_the_report_names_matrices_in_no_linear_layer():
    net = pruned()
    net.experts = nn.Parameter(torch.zeros(4, 8, 8))
    assert [row.name for row in st.quantize(net).unreached] == ["experts"]


def test_hooks_of_a_layer_and_an_mlp_stay_until_they_are_removed():
    net, seen = pruned(), []
    modules = net.mlp, net.mlp.fc2
    handles = [m.register_forward_pre_hook(lambda *call: seen.append(call[0])) for m in modules]
    st.quantize(net)
    outputs(net, E4M3)
    assert seen == [net.mlp, net.mlp.fc2]
    for handle in handles:
        handle.remove()
    outputs(net, E4M3)
    assert len(seen) == 2


def test_a_layer_whose_weight_is_read_by_its_parent_stays_dense():
    block = nn.Module()
    block.attention = nn.MultiheadAttention(8, 2)
    block.mlp = Mlp()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter[..., ::2] = 0
    report = st.quantize(block)
    assert list(packed_linears(block)) == ["mlp.fc1", "mlp.fc2"]
    assert "MultiheadAttention reads its weight" in str(report)


def test_a_copy_and_a_state_dict_give_the_same_outputs():
    net, other = pruned(), pruned()
    st.quantize(net)
    nn.init.normal_(other.head.weight)
    st.quantize(other)
    expected = outputs(net, E4M3)
    other.load_state_dict(net.state_dict())
    for again in (copy.deepcopy(net), other):
        assert torch.equal(outputs(again, E4M3), expected)


def test_an_export_in_training_mode_is_told_to_evaluate():
    net = pruned()
    st.quantize(net, E4M3)
    net.train().requires_grad_()
    with pytest.raises(RuntimeError, match=r"^PackedMlp is for inference: call model\.eval\(\)"):
        torch.export.export(net, (normal(4, 8),), strict=False)


@pytest.mark.parametrize("dtype", [E4M3, torch.int8], ids=str)
def test_a_model_compiles_without_breaks(dtype):
    torch._dynamo.reset()
    net = pruned()
    st.quantize(net, dtype)
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    x = normal(6, 8)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(compiled(x), net(x))


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ({"dtype": torch.float32}, r"^dtype=torch.float32: choose one of torch.float8_e4m3fn"),
        ({"dtype": "int8"}, r"^dtype='int8': choose one of torch.float8_e4m3fn"),
        ({"include": (0,)}, r"^include=\(0,\): give a tuple of globs, as \('\*mlp\*',\)"),
        ({"include": "mlp*"}, r"^include='mlp\*': give a tuple"),
        ({"include": None}, r"^include=None: give a tuple of globs, as \('\*mlp\*',\)"),
        ({"include": ("fc*",)}, r"^include: 'fc\*' matches no linear layer"),
        (
            {"include": ("mlp*", "embed")},
            r"^embed cannot be packed: its weight is not 2:4 along its rows in \d+ of 16 fours "
            r"\(st.prune does it\); leave it out of include",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_and_nothing_changes(words, complaint):
    net = pruned()
    before = str(net)
    with pytest.raises(ValueError, match=complaint):
        st.quantize(net, **words)
    assert str(net) == before


def test_include_names_what_is_packed():
    net = pruned()
    st.quantize(net, include=("mlp.fc2",))
    assert list(packed_linears(net)) == ["mlp.fc2"]


def test_a_model_without_2_of_4_weights_is_told_why():
    with pytest.raises(
        ValueError, match=r"^no linear layer has a 2:4 weight: embed \(1\): its wei"
    ):
        st.quantize(seeded(Net()))
    with pytest.raises(ValueError, match=r"^no linear layer has a 2:4 weight: it has none"):
        st.quantize(nn.Sequential(nn.ReLU()))
    with pytest.raises(ValueError, match=r"weight: the model \(1\): it is the model itself: wrap"):
        st.quantize(nn.Linear(8, 8))
    net = pruned()
    st.set_sparse(net, False)
    with pytest.raises(ValueError, match=r"mlp.fc1 \(1\): it is in a dense phase \(st.set_sparse"):
        st.quantize(net)
    zero: Any = nn.Sequential(nn.Linear(8, 8), nn.Linear(6, 8))
    nn.init.zeros_(zero[0].weight)
    with pytest.raises(ValueError, match=r"its weight is zero; .*in_features=6 is not a multiple"):
        st.quantize(zero)
    st.set_sparse(net, True)
    st.quantize(net)
    with pytest.raises(ValueError, match=r"^the model is packed already"):
        st.quantize(net)


def test_a_gpu_without_products_is_named(monkeypatch):
    from sparsetrain.inference import quantize

    module: Any = __import__("sys").modules[quantize.__module__]
    ampere = Engines("auto", (8, 0), Library())
    monkeypatch.setattr(module, "find_engines", lambda *given: ampere)
    with pytest.raises(ValueError, match=r"mlp.fc1 would run on sm_80: native products need"):
        st.quantize(pruned())
    in_pytorch = r"native: its definition in plain PyTorch, slowly: native products need"
    assert re.search(in_pytorch, str(st.quantize(pruned(), torch.int8)))
    net = seeded(nn.Sequential(nn.Linear(64, 128), nn.Linear(128, 64)))
    st.prune(net, st.Magnitude())
    assert {row.engine for row in st.quantize(net, torch.bfloat16).converted} == {"aten: sm_80"}


def test_every_dtype_has_products_on_hopper(monkeypatch):
    monkeypatch.setattr(engine, "why_not_native", lambda *given: "")
    hopper = Engines("auto", (9, 0), Library())
    found = {engine.engine_of(hopper, dtype, "fc1", (8, 8))[1] for dtype in DTYPES}
    assert found == {"native: sm_90"}


@pytest.mark.slow
def test_gpt2s_conv1d_layers_are_packed_and_loaded(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        n_embd=16, n_layer=1, n_head=2, vocab_size=32, n_positions=16, use_cache=False
    )
    model = transformers.GPT2Model(config).eval()
    st.prune(model, st.Magnitude())
    tokens = torch.arange(8)[None]
    with torch.no_grad():
        exact = model(tokens).last_hidden_state
        st.quantize(model, torch.int8)
        found = model(tokens).last_hidden_state
    assert len(packed_linears(model)) == 4
    assert (found - exact).norm() < 0.05 * exact.norm()
    st.save_pretrained(model, tmp_path / "out", "packed")
    other = transformers.GPT2Model(config).eval()
    st.load_packed(other, tmp_path / "out")
    with torch.no_grad():
        assert torch.equal(other(tokens).last_hidden_state, found)


@pytest.mark.slow
def test_a_conv1d_that_is_not_packed_stays_one():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=32, n_positions=16)
    model = transformers.GPT2Model(config)
    block = model.h[0]
    with pytest.raises(ValueError, match=r"^no linear layer has a 2:4 weight: h"):
        st.quantize(model)
    assert type(block.mlp.c_fc).__name__ == type(block.attn.c_attn).__name__ == "Conv1D"
    with torch.no_grad():
        block.mlp.c_fc.weight[::2] = 0
    st.quantize(model)
    assert list(packed_linears(model)) == ["h.0.mlp.c_fc"]
    assert type(block.attn.c_attn).__name__ == "Conv1D"
