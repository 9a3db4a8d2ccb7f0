"""PackedLinear: its numbers, what stays with it, and what it refuses."""

import copy
import io

import pytest
import torch
from op_calls import OpCalls
from torch import nn

from sparsetrain.inference import DTYPES, PackedLinear, PackedMlp
from sparsetrain.ops import mask24, select24
from sparsetrain.reference.pack24 import unpack24
from sparsetrain.reference.quantize import dequantize, quantize

E4M3 = torch.float8_e4m3fn
QUANTIZED = (E4M3, torch.int8)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
quantized = pytest.mark.parametrize("dtype", QUANTIZED, ids=str)


def weight_and_bias(outputs=24, inputs=40):
    torch.manual_seed(0)
    weight = torch.randn(outputs, inputs)
    return mask24(weight, select24(weight, "row")), torch.randn(outputs)


def layer_of(dtype):
    weight, bias = weight_and_bias()
    return PackedLinear.pack(weight, bias, dtype)


@quantized
def test_it_multiplies_what_is_quantized_row_by_row_and_adds_the_bias(dtype):
    (weight, bias), layer = weight_and_bias(), layer_of(dtype)
    assert layer.scales is not None
    x = torch.randn(7, 40)
    w, xq = (dequantize(*quantize(t, dtype, "row", False)).double() for t in (weight, x))
    assert torch.equal(dequantize(unpack24(layer.values, layer.meta), layer.scales).double(), w)
    torch.testing.assert_close(layer(x), (xq @ w.T + bias.double()).float())


@pytest.mark.parametrize(("dtype", "error"), [(E4M3, 0.06), (torch.int8, 0.02)], ids=str)
def test_it_is_near_the_layer_that_was_not_quantized(dtype, error):
    weight, bias = weight_and_bias()
    x = torch.randn(300, 40)
    exact = x @ weight.T
    assert (layer_of(dtype)(x) - bias - exact).norm() < error * exact.norm()


def test_16_bits_are_rounded_once_and_multiplied_as_they_are():
    weight, bias = weight_and_bias()
    layer = PackedLinear.pack(weight, bias, torch.bfloat16).bfloat16()
    x = torch.randn(7, 40, dtype=torch.bfloat16)
    exact = x.double() @ weight.bfloat16().double().T + bias.bfloat16().double()
    torch.testing.assert_close(layer(x), exact.bfloat16())
    assert layer.scales is None


@dtypes
def test_any_leading_dimensions_and_an_empty_batch_will_do(dtype):
    wide = torch.float32 if dtype in QUANTIZED else dtype
    layer, x = layer_of(dtype).to(wide), torch.randn(2, 3, 40).to(wide)
    y = layer(x)
    assert (y.shape, y.dtype) == ((2, 3, 24), wide)
    assert torch.equal(y[1, 2], layer(x[1, 2]))
    assert layer(x[:0]).shape == (0, 3, 24)


@dtypes
def test_autocast_says_what_the_result_is_in(dtype):
    with torch.autocast("cpu", torch.float16 if dtype == torch.float16 else torch.bfloat16):
        assert layer_of(dtype)(torch.randn(3, 40)).dtype == torch.get_autocast_dtype("cpu")


@dtypes
def test_a_state_dict_comes_back_bit_for_bit(dtype):
    layer = layer_of(dtype)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    empty = PackedLinear.pack(torch.zeros(24, 40), torch.zeros(24), dtype)
    empty.load_state_dict(torch.load(file, weights_only=True))
    for name, tensor in layer.state_dict().items():
        assert torch.equal(empty.state_dict()[name].view(torch.uint8), tensor.view(torch.uint8))


def test_a_state_dict_in_another_dtype_is_refused():
    complaint = r"values is torch.int8 in the file and torch.float8_e4m3fn here: quantize the model"
    with pytest.raises(RuntimeError, match=complaint):
        layer_of(E4M3).load_state_dict(layer_of(torch.int8).state_dict())


@dtypes
def test_a_model_that_changes_dtype_keeps_what_is_packed(dtype):
    model = nn.Sequential(layer_of(dtype))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    copied = copy.deepcopy(model.half().double().bfloat16())
    for name, tensor in copied.state_dict().items():
        if name != "0.bias":
            assert tensor.dtype == before[name].dtype
            assert torch.equal(tensor.view(torch.uint8), before[name].view(torch.uint8))
    assert copied[0].bias.dtype == torch.bfloat16
    assert model.to("meta")[0].values.is_meta
    assert model.to_empty(device="cpu")[0].values.dtype == dtype


def test_training_and_gradients_are_refused():
    layer, x = layer_of(E4M3), torch.randn(3, 40, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"^PackedLinear has no backward: run the model under"):
        layer(x)
    with torch.no_grad():
        assert not layer(x).requires_grad
    with pytest.raises(RuntimeError, match=r"^PackedLinear is for inference: call model.eval\(\)"):
        layer.train()(x)


def test_what_it_has_no_products_for_is_named():
    with pytest.raises(ValueError, match=r"^x is torch.float64: 8-bit .* float16; convert x"):
        layer_of(E4M3)(torch.randn(3, 40).double())
    both = r"^x is torch.float32 and the packed weight torch.bfloat16, which .to\(dtype\) leaves as"
    with pytest.raises(ValueError, match=rf"{both} it is: give x in .*autocast\(…, dtype=.*16\)$"):
        layer_of(torch.bfloat16)(torch.randn(3, 40))
    with pytest.raises(ValueError, match=r"or quantize the model with dtype=torch.float16$"):
        layer_of(torch.bfloat16).half()(torch.randn(3, 40).half())


@dtypes
def test_an_input_of_another_width_is_refused(dtype):
    wide = torch.float32 if dtype in QUANTIZED else dtype
    weight, bias = weight_and_bias(inputs=128)
    layer = PackedLinear.pack(weight, bias, dtype).to(wide)
    for width in (1, 100, 129):  # a product takes up to 128 as rows of a matrix padded to 128
        with pytest.raises(ValueError, match=rf"^x \(2, {width}\): expected \[\.\.\., 128\]"):
            layer(torch.ones(2, width, dtype=wide))
    with pytest.raises(ValueError, match=r"^x \(\): expected"):
        layer(torch.tensor(1.0, dtype=wide))


@dtypes
def test_the_mlp_of_t5_which_looks_at_the_dtype_of_a_weight_runs(dtype):
    wide = torch.float32 if dtype in QUANTIZED else dtype
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    mlp = t5.T5DenseActDense(t5.T5Config(d_model=40, d_ff=24)).eval().to(wide)
    mlp.wo = PackedLinear.pack(*weight_and_bias(40, 24), dtype).to(wide)
    with torch.no_grad():
        x = torch.randn(3, 40).to(wide)
        assert torch.equal(mlp(x), mlp.wo(mlp.act(mlp.wi(x))))


def test_an_mlp_as_one_function_refuses_an_input_of_another_width():
    mlp = nn.Module()
    mlp.fc1, mlp.act, mlp.fc2 = nn.Linear(128, 8), nn.GELU(), nn.Linear(8, 128)
    for name, outputs, inputs in (("fc1", 8, 128), ("fc2", 128, 8)):
        packed = PackedLinear.pack(*weight_and_bias(outputs, inputs), torch.bfloat16)
        setattr(mlp, name, packed)
    with pytest.raises(ValueError, match=r"^x \(2, 100\): expected \[\.\.\., 128\]"):
        PackedMlp.from_dense(mlp.eval())(torch.ones(2, 100, dtype=torch.bfloat16))


def test_autocast_in_the_other_16_bit_dtype_is_refused_with_both_fixes():
    layer = layer_of(torch.float16)
    complaint = (
        r"^autocast is in torch.bfloat16 and the packed weight is torch.float16: use .*or qu"
    )
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match=complaint):
        layer(torch.randn(3, 40))


def test_the_state_dict_of_the_dense_model_is_refused_with_what_to_do():
    complaint = r"weight is dense in the file and packed here: load the file into the dense model"
    with pytest.raises(RuntimeError, match=complaint) as raised:
        layer_of(E4M3).load_state_dict(nn.Linear(40, 24).state_dict())
    assert "Missing key" not in str(raised.value)


@pytest.mark.slow
@dtypes
def test_it_compiles_without_breaks_for_any_number_of_tokens(dtype):
    torch._dynamo.reset()
    wide = torch.float32 if dtype in QUANTIZED else dtype
    layer, x = layer_of(dtype).to(wide), torch.randn(6, 40).to(wide)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with torch.inference_mode():
        assert torch.equal(compiled(x), layer(x))
        assert torch.equal(compiled(x[:5]), layer(x[:5]))


def test_a_forward_is_one_pass_that_quantizes_and_one_product():
    with OpCalls() as calls:
        layer_of(E4M3)(torch.randn(3, 40))
    assert calls.names[-2:] == ["quantize", "scaled_matmul24"]


def test_torch_fx_keeps_it_as_a_leaf():
    graph = torch.fx.symbolic_trace(nn.Sequential(layer_of(E4M3)))
    assert [node.op for node in graph.graph.nodes] == ["placeholder", "call_module", "output"]
