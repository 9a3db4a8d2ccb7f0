"""Every forward multiplies by the weights as they are, however they were changed."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from nn_checks import Net, engines, normal, seeded
from op_calls import OpCalls
from torch import nn
from torch.utils.checkpoint import checkpoint

import sparsetrain as st
from sparsetrain.select import GREEDY, ROW, SQUARED

PACKING = ("pack_into24", "mask24")
"""Ops that make a packed weight; with engine masked, `mask24` does of an activation too."""

SPARSITIES = {
    "weights": st.Sparsity(),
    "squared": st.Sparsity(selection=SQUARED),
    "greedy": st.Sparsity(selection=GREEDY),
    "row": st.Sparsity(selection=ROW),
    "MVUE": st.Sparsity(weight=st.STE(mvue=True)),
    "S-STE": st.Sparsity(weight=st.SSTE()),
    "activations": st.Sparsity(weight=None, activation=st.Activation24()),
    "all": st.Sparsity(activation=st.Activation24()),
}
_SLOW = ("squared", "greedy", "activations")  # packed as others are
kinds = pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=pytest.mark.slow) if k in _SLOW else k for k in SPARSITIES],
)
both = pytest.mark.parametrize("kind", ["weights", "all"])


def sparse_net(kind: str = "weights", engine: Any = "native", seed: int = 0) -> Any:
    model = seeded(Net(), seed)
    st.sparsify(model, SPARSITIES[kind], engine=engine)
    return model


def step(model: nn.Module, batches: int = 1, dtype: torch.dtype = torch.float32) -> list[Any]:
    """Outputs of a few batches, then every gradient, accumulated."""
    model.zero_grad()
    torch.manual_seed(0)
    outputs = []
    for seed in range(batches):
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            out = model(normal(3, 5, 8, seed=seed))
        out.float().square().mean().backward()
        outputs.append(out.detach())
    return [*outputs, *(parameter.grad for parameter in model.parameters())]


def assert_same_bits(got: list[Any], expected: list[Any]) -> None:
    for one, other in zip(got, expected, strict=True):
        assert torch.equal(one, other)


def optimize(model: Any, **kind: Any) -> None:
    step(model)
    torch.optim.AdamW(model.parameters(), lr=0.1, **kind).step()


def average(model: Any) -> None:
    """Copy other weights into the model, as averages of weights are, unseen by autograd."""
    for parameter, mean in zip(model.parameters(), seeded(Net(), 3).parameters(), strict=True):
        parameter.data.copy_(mean.data)


def swap_data(model: Any) -> None:
    for i, parameter in enumerate(model.parameters()):
        parameter.data = normal(*parameter.shape, seed=i)


CHANGES = {
    "AdamW": optimize,
    "foreach AdamW": lambda model: optimize(model, foreach=True),
    "fused AdamW": lambda model: optimize(model, fused=True),
    "load_state_dict": lambda model: model.load_state_dict(seeded(Net(), 7).state_dict()),
    "assigned": lambda model: model.load_state_dict(seeded(Net(), 7).state_dict(), assign=True),
    "an average": average,
    ".data": swap_data,
}


def rebuilt(model: Any, kind: str) -> Any:
    """Another sparse model on copies of the weights as they are."""
    other = sparse_net(kind)
    other.load_state_dict(deepcopy(model.state_dict()))
    for name, module in other.named_modules():
        if isinstance(module, st.SparseLinear):
            module.scale = model.get_submodule(name).scale
    return other


@kinds
@pytest.mark.parametrize("how", CHANGES)
def test_a_change_of_the_weights_reaches_the_next_forward(how, kind):
    model, x = sparse_net(kind), normal(3, 8)
    before = model(x)
    CHANGES[how](model)
    found = model(x)
    assert (found - before).abs().max() > 0.01
    assert torch.equal(found, rebuilt(model, kind)(x))
    with torch.inference_mode():
        assert torch.equal(model.eval()(x), found)


# torch 2.10 and 2.11 do this themselves when they trace an autograd.Function.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@both
@pytest.mark.parametrize("how", ["fused AdamW", "load_state_dict", "an average", ".data"])
def test_a_change_of_the_weights_reaches_compiled_code(how, kind):
    torch._dynamo.reset()
    model, x = sparse_net(kind), normal(3, 8)
    compiled: Any = torch.compile(model, fullgraph=True, backend="aot_eager")
    before = compiled(x)
    CHANGES[how](model)
    found = compiled(x)
    assert (found - before).abs().max() > 0.01
    torch.testing.assert_close(found, model(x))


@pytest.mark.parametrize("checkpointed", [False, True])
@engines
@pytest.mark.parametrize("kind", ["weights", "row", "S-STE"])
def test_each_forward_packs_each_weight_once_and_its_recomputation_again(
    kind, engine, checkpointed
):
    class Recomputed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = sparse_net(kind, engine)

        def forward(self, x):
            return checkpoint(self.net, x, use_reentrant=False) if checkpointed else self.net(x)

    with OpCalls() as calls:
        step(Recomputed(), 3)
    # The threshold of S-STE writes what dense products read.
    packing = ("soft_threshold24",) if (kind, engine) == ("S-STE", "masked") else PACKING
    assert calls.count(*packing) == 4 * 3 * (2 if checkpointed else 1)


@engines
@kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kept", [False, True])
def test_packed_once_gives_the_bits_of_packing_in_every_forward(kind, engine, dtype, kept):
    model = sparse_net(kind, engine)
    if kept:
        st.update_masks(model)
        swap_data(model)
    expected = step(model, 2, dtype)
    autocast = torch.autocast("cpu", dtype, enabled=dtype != torch.float32)
    with autocast, st.packed_once(model), OpCalls() as calls:
        found = step(model, 2, dtype)
    assert_same_bits(found, expected)
    if engine == "native":
        assert calls.count(*PACKING) == 0


@engines
@kinds
def test_a_forward_in_inference_mode_leaves_nothing_that_training_cannot_use(kind, engine):
    model = sparse_net(kind, engine)
    expected = step(model)
    with torch.inference_mode():
        model(normal(3, 8))
        st.update_masks(model)
    assert_same_bits(step(model), expected)
    swap_data(model)
    st.update_masks(model)
    step(model)


@both
def test_packed_values_are_in_the_dtype_of_autocast_and_float64_stays(kind):
    model, x = sparse_net(kind), normal(3, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(x).dtype == torch.bfloat16
        assert model.double()(x.double()).dtype == torch.float64
        assert model.embed.packed(torch.float64).dtype == torch.float64


@both
def test_a_backward_uses_what_its_forward_multiplied_by(kind):
    model = sparse_net(kind)
    expected = step(model)
    model.zero_grad()
    loss = model(normal(3, 5, 8, seed=0)).square().mean()
    # What is packed was made in the forward; a dense weight of the MLP was copied with zeros.
    swap_data(model)
    st.update_masks(model)
    loss.backward()
    assert_same_bits([p.grad for p in model.parameters()], expected[1:])


@both
@engines
def test_a_copy_is_its_own(kind, engine):
    model, x = sparse_net(kind, engine), normal(3, 8)
    with st.packed_once(model):
        other = deepcopy(model)
    expected = model(x)
    assert torch.equal(other(x), expected)
    swap_data(other)
    assert (other(x) - expected).abs().max() > 0.1
    assert torch.equal(model(x), expected)
