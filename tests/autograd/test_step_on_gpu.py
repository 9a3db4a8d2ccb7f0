"""Each sparse layer on the GPU's kernels, forward and backward, against a masked float64 layer.

The oracle computes in float64 from the operands that the products see: rounded to their dtype,
under the same masks. PyTorch's own is the same computation in that dtype.
"""

from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from autograd_checks import SELECTIONS, PassThrough, backward, double, normal
from kernel_checks import DEVICE, needs_kernels
from matmul_checks import needs_hopper
from op_calls import OpCalls
from ops_checks import assert_as_accurate_as_torch
from test_squared_relu_mlp import oracle_mlp
from torch import Tensor, nn

import sparsetrain as st
from sparsetrain.methods import WeightMethod
from sparsetrain.nn import SparseLinear, SparseMlp, SquaredReLU
from sparsetrain.nn.phase import Phase
from sparsetrain.ops import unpack24
from sparsetrain.products import NATIVE
from sparsetrain.select import EXACT, ROW, Selection

# A thread of autograd that begins with a dense product has no CUDA context yet; PyTorch says so.
no_context = "ignore:Attempting to run cuBLAS, but there was no current CUDA context:UserWarning"
pytestmark = [pytest.mark.gpu, needs_kernels, needs_hopper, pytest.mark.filterwarnings(no_context)]


class Precision(NamedTuple):
    masters: torch.dtype
    products: torch.dtype


PRECISIONS = {
    "bf16 autocast": Precision(torch.float32, torch.bfloat16),
    "fp16 autocast": Precision(torch.float32, torch.float16),
    "bf16 true": Precision(torch.bfloat16, torch.bfloat16),
}
METHODS: dict[str, tuple[WeightMethod, Selection]] = {
    **{str(selection): (st.STE(), selection) for selection in SELECTIONS},
    "S-STE": (st.SSTE(mvue=False), ROW),
}
FEATURES = [(256, 512), (512, 256), (128, 384)]
"""Of an MLP's two linears, and of the queries, keys and values of attention: inputs, outputs."""
TOKENS = [(1,), (7,), (3, 65), (4, 197)]

precisions = pytest.mark.parametrize("precision", PRECISIONS.values(), ids=PRECISIONS)
biases = pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])


def made(module: Any, dtype: torch.dtype) -> Any:
    """The module on the GPU with weights about as large as trained ones, and biases."""
    with torch.no_grad():
        for seed, parameter in enumerate(module.parameters()):
            scale = parameter.shape[-1] ** -0.5 if parameter.dim() == 2 else 1.0
            parameter.copy_(scale * normal(*parameter.shape, seed=seed))
    return module.to(DEVICE, dtype)


def data(tokens: tuple[int, ...], features: int, seed: int, precision: Precision) -> Tensor:
    return normal(*tokens, features, seed=seed).to(DEVICE, precision.masters)


def trained(layer: nn.Module, x: Tensor, grad: Tensor, precision: Precision) -> list[Any]:
    """Output, gradient of x, and of every parameter, in the dtypes that they must have."""
    layer.zero_grad()
    leaf = x.clone().requires_grad_()
    masters, products = precision
    with torch.autocast(DEVICE, products, enabled=masters != products):
        out = layer(leaf)
    assert out.dtype == products
    out.backward(grad.to(products))
    return [out.detach(), leaf.grad, *(parameter.grad for parameter in layer.parameters())]


def trained_packed_once(
    layer: nn.Module, x: Tensor, grad: Tensor, precision: Precision
) -> list[Any]:
    """As `trained`, by weights that are packed before the forward."""
    masters, products = precision
    with torch.autocast(DEVICE, products, enabled=masters != products), st.packed_once(layer):
        return trained(layer, x, grad, precision)


def assert_accurate(
    got: list[Any], function: Any, inputs: list[Any], grad: Tensor, floor: float = 1e-5
) -> None:
    """Hold results to twice the error of `function` in the dtype of `inputs`, and the floor."""
    plain = backward(function, inputs, grad)
    exact = backward(function, double(inputs), grad.double())
    got, plain, exact = ([t for t in one if t is not None] for one in (got, plain, exact))
    for ours, theirs, oracle in zip(got, plain, exact, strict=True):
        assert_as_accurate_as_torch(ours, theirs, oracle, floor=floor)


# Linear layers


def sparse_linear(
    method: tuple[WeightMethod, Selection],
    features: tuple[int, int],
    bias: bool,
    precision: Precision,
) -> SparseLinear:
    dense = made(nn.Linear(*features, bias=bias), precision.masters)
    return SparseLinear.from_dense(dense, *method, NATIVE, Phase(st.Schedule()))


def assert_is_the_masked_layer(
    layer: SparseLinear, tokens: tuple[int, ...], precision: Precision
) -> None:
    used = layer.used_weight().to(precision.products)
    x = data(tokens, layer.in_features, 8, precision)
    grad = data(tokens, layer.out_features, 9, precision).to(precision.products)
    got = trained(layer, x, grad, precision)

    def masked(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        return F.linear(x, PassThrough.apply(w, used.to(w.dtype)), b)

    inputs = [t.detach().to(precision.products) for t in (x, *layer.parameters())]
    assert_accurate(got, masked, inputs, grad)
    again = trained_packed_once(layer, x, grad, precision)
    for ours, packed in zip(got, again, strict=True):
        assert torch.equal(ours, packed), "packed before the forward, not in it"


@biases
@precisions
@pytest.mark.parametrize("features", FEATURES, ids=str)
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_linear_layer_is_the_masked_one_for_any_number_of_tokens(
    method, features, precision, bias
):
    layer = sparse_linear(method, features, bias, precision)
    for tokens in TOKENS:
        assert_is_the_masked_layer(layer, tokens, precision)


@precisions
def test_a_linear_layer_with_a_mask_that_is_not_its_weights_is_the_masked_one(precision):
    layer = sparse_linear((st.STE(), EXACT), (256, 512), True, precision)
    layer.update_mask()
    before = layer.used_weight() != 0
    made(layer, precision.masters)
    with torch.no_grad():
        layer.weight.copy_(layer.weight.flip(0))
    assert torch.equal(layer.used_weight() != 0, before)
    assert_is_the_masked_layer(layer, (3, 65), precision)


# MLPs


class Mlp(nn.Module):
    """The children of timm's `Mlp`."""

    def __init__(self, inputs: int, hidden: int, bias: bool) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, hidden, bias)
        self.act = SquaredReLU()
        self.fc2 = nn.Linear(hidden, inputs, bias)


MASKED = {"activations": (), "fc1": ("fc1",), "fc2": ("fc2",), "all": ("fc1", "fc2")}


def sparse_mlp(selection: Selection, masked: str, bias: bool, precision: Precision) -> Any:
    """An MLP of 192 and 384 features with 2:4 activations, and weights where `masked` has them."""
    dense, phase = made(Mlp(192, 384, bias), precision.masters), Phase(st.Schedule())
    for name in MASKED[masked]:
        linear = SparseLinear.from_dense(getattr(dense, name), st.STE(), EXACT, NATIVE, phase)
        setattr(dense, name, linear)
    return SparseMlp.from_dense(dense, st.Activation24(selection), NATIVE, phase)


def mask_of(linear: nn.Linear) -> Tensor | None:
    return linear.current_mask() if isinstance(linear, SparseLinear) else None


def unpacked(packed: tuple[Tensor, ...], tokens: int) -> tuple[Tensor, Tensor]:
    """A matrix 2:4 along features, and along tokens; [tokens, features], dense with zeros."""
    values, meta, values_t, meta_t = packed
    columns = unpack24(values_t, meta_t)[:, :tokens].T
    return unpack24(values, meta), columns.contiguous()


@biases
@precisions
@pytest.mark.parametrize("masked", MASKED)
@pytest.mark.parametrize("selection", SELECTIONS, ids=str)
def test_an_mlp_is_the_masked_one_for_any_number_of_tokens(selection, masked, precision, bias):
    mlp = sparse_mlp(selection, masked, bias, precision)
    for tokens in TOKENS:
        x = data(tokens, 192, 8, precision)
        grad = data(tokens, 192, 9, precision).to(precision.products)
        with OpCalls(keep=True) as calls:
            got = trained(mlp, x, grad, precision)
        (h24,) = calls.results["squared_relu24"]
        kept = [h != 0 for h in unpacked(h24, grad[..., 0].numel())]
        masks = (mask_of(mlp.fc1), mask_of(mlp.fc2))

        def oracle(x, w1, b1, w2, b2, masks=masks, kept=kept):
            return oracle_mlp(masks, kept)(x, w1, b1, w2, b2)

        parameters = (mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight, mlp.fc2.bias)
        inputs = [None if p is None else p.detach().to(precision.products) for p in parameters]
        # Of a few tokens it is chance how the roundings of one another's results add up.
        floor = 1e-5 if kept[0].shape[0] > 100 else torch.finfo(precision.products).eps
        assert_accurate(got, oracle, [x.to(precision.products), *inputs], grad, floor)
        again = trained_packed_once(mlp, x, grad, precision)
        for ours, packed in zip(got, again, strict=True):
            assert torch.equal(ours, packed), "packed before the forward, not in it"


# Gradients of float32 masters

UNROUNDED = 3e-5
"""Of the largest: a sum of some hundred products in float32. Rounding to bfloat16 loses 2**-9."""


def assert_unrounded(grad: Tensor | None, exact: Tensor) -> None:
    def error(x: Tensor) -> float:
        return ((x.double() - exact).abs().max() / exact.abs().max()).item()

    assert grad is not None
    assert grad.dtype == torch.float32
    assert error(exact.bfloat16()) > 10 * UNROUNDED
    assert error(grad) < UNROUNDED


@pytest.mark.parametrize("selection", SELECTIONS, ids=str)
@pytest.mark.parametrize("masked", ["activations", "all"])
def test_weight_gradients_of_an_mlp_are_not_rounded_to_bfloat16(masked, selection):
    precision = PRECISIONS["bf16 autocast"]
    mlp = sparse_mlp(selection, masked, True, precision)
    x, grad = (data((4, 197), 192, seed, precision) for seed in (8, 9))
    with OpCalls(keep=True) as calls:
        trained(mlp, x, grad, precision)
    (h24,) = calls.results["squared_relu24"]
    ((values, values_t, _),) = calls.results["squared_relu24_backward"]
    tokens = 4 * 197
    _, h_TH = unpacked(h24, tokens)
    _, dz_TH = unpacked((values, h24[1], values_t, h24[3]), tokens)
    x_TI, dy_TO = (t.bfloat16().double().flatten(0, -2) for t in (x, grad))
    assert_unrounded(mlp.fc1.weight.grad, dz_TH.double().T @ x_TI)
    assert_unrounded(mlp.fc2.weight.grad, dy_TO.T @ h_TH.double())
    assert_unrounded(mlp.fc2.bias.grad, dy_TO.sum(0))


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_the_weight_gradient_of_a_linear_layer_is_not_rounded_to_bfloat16(method):
    precision = PRECISIONS["bf16 autocast"]
    layer = sparse_linear(method, (256, 512), True, precision)
    x = data((4, 197), 256, 8, precision)
    grad = data((4, 197), 512, 9, precision)
    trained(layer, x, grad, precision)
    x_TI, grad_TO = (t.bfloat16().double().flatten(0, -2) for t in (x, grad))
    assert_unrounded(layer.weight.grad, grad_TO.T @ x_TI)
    assert_unrounded(layer.bias.grad, grad_TO.sum(0))
