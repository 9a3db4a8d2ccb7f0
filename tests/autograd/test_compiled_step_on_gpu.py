"""Whole ViT steps on the kernels under torch.compile: one graph, the eager numbers, CUDA graphs."""

import pytest
import torch
from kernel_checks import needs_kernels
from matmul_checks import needs_hopper
from step_checks import Run, batch, kinds
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters
from torch._inductor.cudagraph_trees import get_manager

import sparsetrain as st

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    needs_kernels,
    needs_hopper,
    # torch 2.10 and 2.11 do this themselves when they trace an autograd.Function.
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
    # PyTorch's CUDA graphs start with an empty one.
    pytest.mark.filterwarnings("ignore:The CUDA Graph is empty:UserWarning"),
    # Inductor's advice; the comparison wants float32 as it is.
    pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning"),
]


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch.compiler.reset()
    counters.clear()


@kinds
def test_a_compiled_step_is_as_accurate_as_the_eager_one(kind):
    """Against float32; a rounding may change which activations are kept, in either."""
    exact, eager, compiled = Run(kind, "masked", torch.float32), Run(kind), Run(kind)
    compiled.forward = torch.compile(compiled.model, fullgraph=True)
    losses = [run.gradients(*batch()) for run in (exact, eager, compiled)]
    assert (losses[2] - losses[0]).abs() <= 2 * (losses[1] - losses[0]).abs() + 0.01
    others = eager.grads(), compiled.grads()
    for name, grad in exact.grads().items():
        error_eager, error = ((other[name] - grad).norm() / grad.norm() for other in others)
        assert error <= 2 * error_eager + 0.01, name
        assert error < 0.1, name


def graphs_recorded() -> int:
    """CUDA graphs so far; asking counts as one."""
    manager = get_manager(torch.cuda.current_device())
    assert manager is not None
    return manager.new_graph_id().id


@kinds
def test_ten_steps_with_cuda_graphs_are_those_without(kind):
    plain, graphs = Run(kind), Run(kind)
    plain.forward = torch.compile(plain.model, fullgraph=True)
    graphs.forward = torch.compile(graphs.model, fullgraph=True, mode="reduce-overhead")
    losses, recorded = [], 0
    for number in range(10):
        if number == 5:
            recorded = graphs_recorded()
        if number in (0, 5):  # before the first step too, as `attach` chooses them
            for run in (plain, graphs):
                st.update_masks(run.model)
        torch.compiler.cudagraph_mark_step_begin()
        losses.append([float(run.step(*batch(number))) for run in (plain, graphs)])
    ours, expected = zip(*losses, strict=True)
    assert ours == pytest.approx(expected, rel=0.01)
    assert expected[-1] < 0.8 * expected[0], "weights that stay the same would not show"
    assert counters["inductor"]["cudagraph_skips"] == 0
    assert recorded > 0
    assert graphs_recorded() == recorded + 1, "new weights and masks are replayed, not recorded"


@kinds
def test_batches_of_any_size_run_one_graph(kind):
    eager, compiled = Run(kind), Run(kind)
    counter = CompileCounterWithBackend("inductor")
    compiled.forward = torch.compile(compiled.model, fullgraph=True, backend=counter)
    for size in (8, 6, 9):
        images, labels = batch(size, size)
        expected = eager.step(images, labels)
        torch._dynamo.mark_dynamic(images, 0)
        assert float(compiled.step(images, labels)) == pytest.approx(float(expected), rel=0.02)
    assert counter.frame_count == 1


def test_a_dense_phase_compiles_once_and_the_way_back_not_again():
    eager, compiled = Run("all"), Run("all")
    counter = CompileCounterWithBackend("inductor")
    compiled.forward = torch.compile(compiled.model, fullgraph=True, backend=counter)
    counts = []
    for number, sparse in enumerate((True, False, True)):
        for run in (eager, compiled):
            st.set_sparse(run.model, sparse)
        expected = float(eager.step(*batch(number)))
        assert float(compiled.step(*batch(number))) == pytest.approx(expected, rel=0.02)
        counts.append(counter.frame_count)
    assert counts == [1, 2, 2]
