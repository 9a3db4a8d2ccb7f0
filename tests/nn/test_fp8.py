"""Sparsity(format=FP8()): layers train in fp8 on a CPU, and what cannot is refused in one line."""

import sys

import pytest
import torch
from op_calls import OpCalls
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._inductor.utils import run_and_get_code

import sparsetrain as st
from sparsetrain.native import Library
from sparsetrain.nn import sparsify
from sparsetrain.nn.engine import Engines
from sparsetrain.nn.mlp import SparseMlp


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(16, 32)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(32, 16)

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))


def model():
    torch.manual_seed(0)
    return nn.Sequential(Mlp(), nn.LayerNorm(16), nn.Linear(16, 8))


def made_sparse(format=None, weight=None, **words):
    net = model()
    weight = st.STE() if weight is None else weight
    spec = st.Sparsity(weight=weight, format=format, **words)
    report = sparsify(net, spec, on_cpu=True)  # whatever the machine has
    return net, report


def test_forward_and_grad_input_run_in_fp8_and_the_report_says_so():
    net, report = made_sparse(st.FP8())
    assert {row.engine for row in report.converted} == {
        "native: fp8, its definition in plain PyTorch"
    }
    assert "engine=native, FP8(scaling='row', power_of_two=False)" in str(net)
    assert isinstance(net[0], SparseMlp)
    x = torch.randn(5, 16, requires_grad=True)
    with OpCalls() as calls:
        y = net(x)
        forward = calls.count("scaled_matmul24")
        y.sum().backward()
    assert forward == 3
    assert calls.count("scaled_matmul24") == 6, "and the grad input of each"
    assert calls.count("matmul24") == 0


def test_an_mlp_with_gelu_quantizes_where_it_makes_h_and_dz():
    net, _ = made_sparse(st.FP8())
    with OpCalls() as calls:
        net[0](torch.randn(5, 16, requires_grad=True)).sum().backward()
    assert calls.count("gelu_quantize", "gelu_backward_quantize") == 2
    assert calls.count("gelu", "gelu_backward") == 0
    assert calls.count("quantize") == 2, "x and dy"


@pytest.mark.parametrize(
    ("weight", "products"), [(None, (1, 1)), (st.STE(), (2, 2))], ids=["activations", "all"]
)
def test_2_of_4_activations_run_in_fp8_and_gradients_of_weights_in_16_bits(weight, products):
    net = model()
    spec = st.Sparsity(weight=weight, activation=st.Activation24(), format=st.FP8())
    sparsify(net, spec, on_cpu=True)
    assert "engine=native, FP8(" in str(net[0])
    with OpCalls() as calls:
        y = net[0](torch.randn(5, 16, requires_grad=True))
        forward = calls.count("scaled_matmul24")
        y.sum().backward()
    assert (forward, calls.count("scaled_matmul24") - forward) == products
    assert calls.count("matmul24") == 2, "dw1 and dw2"
    # Dense weights in y and dx; else x and dy: 2:4 weights are 8-bit from where they are packed.
    assert calls.count("quantize") == 2
    assert calls.count("quantize_across24") == (0 if weight is None else 2)
    assert calls.count("mask24") == 0


def test_rows_of_2_of_4_activations_are_made_in_fp8_and_give_what_narrowing_them_gives(monkeypatch):
    net = model().bfloat16()
    spec = st.Sparsity(weight=st.STE(), activation=st.Activation24(), format=st.FP8())
    sparsify(net, spec, on_cpu=True)
    x = torch.randn(67, 16, dtype=torch.bfloat16, requires_grad=True)

    def gradients():
        with OpCalls() as calls:
            y = net[0](x)
            grads = torch.autograd.grad(y.sum(), [x, *net[0].parameters()])
        return calls, [y, *grads]

    calls, got = gradients()
    assert calls.count("squared_relu24_quantize", "squared_relu24_backward_quantize") == 2
    assert calls.count("narrow24") == 0
    monkeypatch.setattr("sparsetrain.products.activation.in_one_pass", lambda *_: False)
    calls, expected = gradients()
    assert calls.count("narrow24") == 2
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-4)


@pytest.mark.slow  # inductor compiles C++
@pytest.mark.parametrize("features", [64, 2048, 2304])
def test_inductor_quantizes_rows_in_the_kernel_that_makes_them_but_wide_ones(features):
    def normed(x):
        y = nn.functional.layer_norm(x, (features,))
        return y, *st.FP8().rows(y)

    x = torch.randn(50, features)
    got, code = run_and_get_code(torch.compile(normed), x)
    assert sum(text.count("async_compile.cpp_pybinding") for text in code) == 1
    assert any("sparsetrain.quantize" in text for text in code) == (features > 2048)
    (y, q, scales), (want, q_want, scales_want) = got, normed(x)
    torch.testing.assert_close(y, want, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(scales, scales_want, rtol=1e-6, atol=1e-6)
    # A norm whose last bit is another may round to the next of the numbers in 8 bits.
    assert float((q.float() != q_want.float()).float().mean()) < 1e-3
    torch.testing.assert_close(q.float(), q_want.float(), rtol=0.13, atol=1e-2)


def test_other_backends_than_inductor_quantize_by_the_op(monkeypatch):
    module = sys.modules["sparsetrain.ops.quantize"]
    calls, op = [], module._op
    monkeypatch.setattr(module, "_op", lambda *given: calls.append(given) or op(*given))
    x = torch.randn(50, 64)
    got = torch.compile(lambda x: tuple(st.FP8().rows(x)), backend="aot_eager")(x)
    assert calls, "else its kernel would not run on a GPU"
    for one, other in zip(got, st.FP8().rows(x), strict=True):
        assert torch.equal(one.float(), other.float())


def test_outputs_are_near_those_in_16_bits_and_the_state_dict_is_the_dense_models():
    net, _ = made_sparse(st.FP8("block", power_of_two=True))
    plain, _ = made_sparse()
    x = torch.randn(64, 16)
    y, exact = net(x), plain(x)
    error = (y - exact).norm() / exact.norm()
    assert 1e-3 < error < 0.1
    assert net.state_dict().keys() == model().state_dict().keys()


def losses(format, steps=20):
    net, _ = made_sparse(format, st.SRSTE(decay=2e-4))
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    st.attach(net, optimizer, total_steps=steps)
    generator = torch.Generator().manual_seed(1)
    x, target = torch.randn(128, 16, generator=generator), torch.arange(128) % 8
    seen = []
    for _ in range(steps):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = nn.functional.cross_entropy(net(x).float(), target)
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    return seen


def test_training_falls_as_in_16_bits_and_repeats_bit_for_bit():
    in_fp8, in_16 = losses(st.FP8()), losses(None)
    assert in_fp8[-1] < 0.7 * in_fp8[0]
    assert abs(in_fp8[-1] - in_16[-1]) < 0.1 * in_16[0]
    assert in_fp8 == losses(st.FP8())


def test_micro_batches_share_the_packed_weights():
    net, _ = made_sparse(st.FP8())
    x = torch.randn(6, 16)
    expected = net(x)
    with OpCalls() as calls, st.packed_once(net):
        for _ in range(3):
            got = net(x)
    assert torch.equal(got, expected)
    assert calls.count("quantize_both24") == 3, "one for each layer"


def test_to_dense_gives_the_master_weights_back():
    net, _ = made_sparse(st.FP8())
    dense = model()
    st.densify(net)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), dense.parameters(), strict=True))


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ({"weight": st.SSTE()}, r"weight=SSTE.*: products in fp8 are of 2:4 weights; use STE"),
        ({"pattern": st.Unstructured(0.1)}, r"pattern=.*: products in fp8 are of 2:4 weights"),
        ({"weight": None}, r"weight=None.*: products in fp8 are of 2:4 weights"),
        (
            {"activation": st.ActivationDropout24()},
            r"activation=.*2:4 dropout has no products",
        ),
    ],
)
def test_what_does_not_go_with_it_is_refused(words, complaint):
    with pytest.raises(ValueError, match=rf"^format=FP8\(.*{complaint}"):
        st.Sparsity(format=st.FP8(), **words)


def test_the_report_says_which_products_are_not_in_8_bits():
    def line(**words):
        report = st.sparsify(model(), st.Sparsity(format=st.FP8(), **words))
        assert report.fp8 in str(report)
        return report.fp8

    assert line() == "fp8: forward and grad input read 8 bits, grad weight does not."
    rows = line(selection=st.Selection("row"))
    assert rows == "fp8, selection row: forward reads 8 bits, grad input and grad weight do not."
    dense = line(include=("0.*",), weight=None, activation=st.Activation24())
    assert dense.startswith("fp8, dense weights: fc2's forward and fc1's grad input read 8 bits")
    assert not made_sparse()[1].fp8


def test_powers_of_two_are_asked_for_by_a_bool():
    with pytest.raises(ValueError, match=r"^power_of_two='false': give True or False"):
        st.FP8(power_of_two="false")  # type: ignore[arg-type]


def test_another_engine_and_a_gpu_are_refused_in_one_line():
    with pytest.raises(ValueError, match=r"^engine='masked': 0.fc1 has format=FP8.* use that"):
        st.sparsify(model(), st.Sparsity(format=st.FP8()), engine="masked")
    without = Engines("auto", (9, 0), Library(reason="not built"))
    with pytest.raises(ValueError, match=r"^format=FP8\(.*fc would run on sm_90: not built; le"):
        without.of_part("fc", st.Part(format=st.FP8()), (64, 64))
    with pytest.raises(ValueError, match=r"^format=FP8\(.*fc would run on sm_90: "):
        without.of_part("fc", st.Part(format=st.FP8("block")), (64, 64))
    for engine in ("auto", "masked", "aten"):
        other = Engines(engine, (8, 0), Library())
        with pytest.raises(ValueError, match=r"^format=FP8\(.*fc would run on sm_80: native pr"):
            other.of_part("fc", st.Part(format=st.FP8()), (64, 64))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_model_in_fp8_compiles_without_breaks_for_any_number_of_tokens():
    torch._dynamo.reset()
    net = model()
    spec = st.Sparsity(weight=st.STE(), activation=st.Activation24(), format=st.FP8("block"))
    sparsify(net, spec, on_cpu=True)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(net, fullgraph=True, backend=counter, dynamic=True)
    counts = set()
    for tokens in (130, 300):
        x = torch.randn(tokens, 16, generator=torch.Generator().manual_seed(tokens))
        results = []
        for run in (compiled, net):
            net.zero_grad()
            y = run(x)
            y.square().sum().backward()
            results.append([y.detach(), *(p.grad for p in net.parameters())])
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(one, other)
        counts.add(counter.frame_count)
    assert len(counts) == 1, "compiled once"
