"""The composites under torch.compile: one whole graph, the eager numbers, few recompilations."""

from hashlib import sha256
from pathlib import Path

import pytest
import torch
from autograd_checks import SELECTIONS, backward, normal, soft_linear24, squared_relu_mlp24
from torch._dynamo.testing import CompileCounterWithBackend

from sparsetrain import ops
from sparsetrain.autograd import linear24
from sparsetrain.ops import select24
from sparsetrain.reference.pack24 import PADDED
from sparsetrain.select import EXACT, ROW

OPS = Path(ops.__file__).parent
SCALE = torch.tensor([1.5])
# One, two and three times the 128 tokens of the padding. All above 64: torch.compile sets the case
# of a single atom of metadata apart.
BATCHES = (80, 100, 129, 300)

# torch 2.10 and 2.11 do this themselves when they trace an autograd.Function.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]

engines = pytest.mark.parametrize("engine", ["masked", "native"])


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()


def weights(*shapes):
    return [normal(*shape, seed=i + 1) for i, shape in enumerate(shapes)]


def assert_compiled_is_eager(function, parameters, *, backend="aot_eager", batches=(8,)):
    """Compare output and gradients over batch sizes; returns how often it was compiled."""
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(function, fullgraph=True, backend=counter)
    for tokens in batches:
        x = normal(tokens, parameters[0].shape[1], seed=tokens)
        grad = normal(tokens, parameters[-1].shape[0], seed=tokens + 1)
        expected = backward(function, [x, *parameters], grad)
        got = backward(compiled, [x, *parameters], grad)
        for ours, eager in zip(got, expected, strict=True):
            torch.testing.assert_close(ours, eager)
    return counter.frame_count


@engines
@pytest.mark.parametrize("selection", SELECTIONS, ids=str)
def test_linear24_compiles_whole_and_gives_the_eager_numbers(engine, selection):
    parameters = weights((12, 16), (12,))
    assert_compiled_is_eager(
        lambda *t: linear24(*t, selection=selection, engine=engine), parameters
    )


@engines
def test_a_given_mask_may_change_without_compiling_again(engine):
    w, b = weights((12, 16), (12,))
    masks = [select24(normal(12, 16, seed=s), "transposable") for s in (2, 3)]
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(
        lambda x, mask: linear24(x, w, b, mask, engine=engine), fullgraph=True, backend=counter
    )
    x = normal(8, 16, seed=5)
    for mask in masks:
        torch.testing.assert_close(compiled(x, mask), linear24(x, w, b, mask))
    assert counter.frame_count == 1


@engines
def test_soft_linear24_compiles_whole_and_gives_the_eager_numbers(engine):
    assert_compiled_is_eager(
        lambda x, w, b: soft_linear24(x, w, b, SCALE, mvue=False, engine=engine),
        weights((12, 16), (12,)),
    )


@engines
@pytest.mark.parametrize("selection", [EXACT, ROW], ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_squared_relu_mlp24_compiles_whole_and_gives_the_eager_numbers(engine, selection, masked):
    parameters = weights((16, 12), (16,), (8, 16), (8,))
    first, second = [select24(w, "transposable") if masked else None for w in parameters[::2]]
    assert_compiled_is_eager(
        lambda *t: squared_relu_mlp24(
            *t, masks=(first, second), selection=selection, engine=engine
        ),
        parameters,
    )


@engines
def test_batch_sizes_compile_linear24_twice_at_most(engine):
    parameters = weights((12, 16), (12,))
    times = assert_compiled_is_eager(
        lambda *t: linear24(*t, engine=engine), parameters, batches=BATCHES
    )
    assert times == 2


@engines
def test_batch_sizes_compile_squared_relu_mlp24_twice_at_most(engine):
    parameters = weights((16, 12), (16,), (8, 16), (8,))
    times = assert_compiled_is_eager(
        lambda *t: squared_relu_mlp24(*t, engine=engine), parameters, batches=BATCHES
    )
    assert times == 2


@engines
def test_mvue_compiles_whole_and_stays_unbiased(engine):
    x, w = normal(6, 8, seed=1), normal(8, 8, seed=2).requires_grad_()
    layer = torch.compile(
        lambda x, w: linear24(x, w, mvue=True, engine=engine), fullgraph=True, backend="aot_eager"
    )
    grad = normal(6, 8, seed=3)

    def sampled():
        return torch.autograd.grad(layer(x, w), w, grad)[0]

    torch.manual_seed(0)
    draws = torch.stack([sampled() for _ in range(300)])
    error = (draws.mean(dim=0) - grad.T @ x).abs()
    assert (error <= 5 * draws.std(dim=0) / 300**0.5 + 1e-5).all()
    torch.manual_seed(0)
    assert torch.equal(sampled(), draws[0])
    assert not torch.equal(draws[0], draws[1])


def test_autocast_compiles_whole():
    w = normal(12, 16, seed=2)
    compiled = torch.compile(linear24, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        out = compiled(normal(8, 16, seed=1), w)
        expected = linear24(normal(8, 16, seed=1), w)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # inductor's own imports
@engines
def test_inductor_gives_the_eager_numbers(engine):
    parameters = weights((16, 12), (16,), (8, 16), (8,), (20, 8))
    mask = select24(parameters[0], "transposable")

    def both(x, w1, b1, w2, b2, w3):
        hidden = squared_relu_mlp24(x, w1, b1, w2, b2, masks=(mask, None), engine=engine)
        return linear24(hidden, w3, engine=engine)

    # Graphs cached on disk are found by the names of ops, whatever shapes their fakes give now.
    fakes = b"".join(path.read_bytes() for path in sorted(OPS.glob("*.py")))
    tag = f"{sha256(fakes).hexdigest()} {PADDED}"
    with torch.compiler.config.patch(cache_key_tag=tag):  # pyright: ignore
        assert_compiled_is_eager(both, parameters, backend="inductor")
