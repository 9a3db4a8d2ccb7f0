"""Sparse models under torch.compile: one graph for all steps, one more for dense phases."""

from typing import Any

import pytest
import torch
from nn_checks import Net, engines, normal, seeded
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters
from torch._functorch import config
from torch._inductor.utils import fresh_cache

import sparsetrain as st
from sparsetrain.lightning.callbacks.compile import cache_sparse_graphs
from sparsetrain.select import ROW

SPARSITIES = {
    "weights": st.Sparsity(schedule=st.Schedule(mask_every=3)),
    "row": st.Sparsity(selection=ROW),
    "S-STE": st.Sparsity(weight=st.SSTE(mvue=False)),
    "activations": st.Sparsity(weight=None, activation=st.Activation24()),
    "all": st.Sparsity(activation=st.Activation24()),
}

# torch 2.10 and 2.11 do this themselves when they trace an autograd.Function.
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")

kinds = pytest.mark.parametrize("kind", SPARSITIES)


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()


class Run:
    """Training of a small model, compiled or not: forward, backward, attached optimizer."""

    def __init__(self, kind: str, engine: Any, compiled: bool, attach: bool = True) -> None:
        self.model: Any = seeded(Net())
        st.sparsify(self.model, SPARSITIES[kind], engine=engine)
        self.counter = CompileCounterWithBackend("aot_eager")
        self.forward: Any = self.model
        if compiled:
            self.forward = torch.compile(self.model, fullgraph=True, backend=self.counter)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.05)
        if attach:
            st.attach(self.model, self.optimizer, check=False)

    def step(self, batch: int = 4, dynamic: bool = False) -> torch.Tensor:
        x = normal(batch, 16, 8, seed=batch)
        if dynamic:
            torch._dynamo.mark_dynamic(x, 0)
        loss = self.forward(x).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()


@pytest.mark.parametrize(
    ("kind", "engine"),
    [
        ("weights", "masked"),
        pytest.param("S-STE", "native", marks=pytest.mark.slow),
        ("all", "native"),
    ],
)
def test_attached_steps_run_one_graph_and_are_the_eager_ones(kind, engine):
    assert_one_graph(kind, engine)


@pytest.mark.slow
@engines
@kinds
def test_attached_steps_of_every_kind_run_one_graph(kind, engine):
    assert_one_graph(kind, engine)


def assert_one_graph(kind, engine):
    """Attached steps compile once and are the eager ones."""
    compiled, eager = Run(kind, engine, True), Run(kind, engine, False)
    losses = []
    for _ in range(5):
        losses.append(compiled.step())
        torch.testing.assert_close(losses[-1], eager.step())
    assert losses[4] < 0.9 * losses[0], "weights that stay the same would not show"
    assert compiled.counter.frame_count == 1
    for ours, other in zip(compiled.model.parameters(), eager.model.parameters(), strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@kinds
def test_a_dense_phase_compiles_once_and_the_way_back_not_again(kind):
    compiled, eager = (Run(kind, "native", compiled, attach=False) for compiled in (True, False))
    counts = []
    for sparse in (True, False, True, False):
        for run in (compiled, eager):
            st.set_sparse(run.model, sparse)
        for _ in range(2):
            torch.testing.assert_close(compiled.step(), eager.step(), rtol=1e-3, atol=1e-4)
        counts.append(compiled.counter.frame_count)
    assert counts == [1, 2, 2, 2]


def test_a_dense_tail_runs_the_graph_of_the_dense_warm_up():
    model: Any = seeded(Net())
    schedule = st.Schedule(dense_warmup=0.25, dense_tail=0.5)
    st.sparsify(model, st.Sparsity(schedule=schedule), engine="masked")
    counter = CompileCounterWithBackend("eager")
    forward = torch.compile(model, fullgraph=True, backend=counter)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    attached = st.attach(model, optimizer, total_steps=4, check=False)
    phases, graphs = [], []
    for _ in range(4):
        assert attached.phase is not None
        phases.append(attached.phase.name)
        forward(normal(4, 16, 8, seed=0)).sum().backward()
        graphs.append(counter.frame_count)
        optimizer.step()
    assert phases == ["dense_warmup", "sparse", "dense_tail", "dense_tail"]
    assert graphs == [1, 2, 2, 2]


@pytest.mark.slow
def test_the_next_process_finds_the_graph_of_a_sparse_model_on_disk():
    with fresh_cache(), config.patch(autograd_cache_allow_custom_autograd_functions=False):
        cache_sparse_graphs()
        for found in (0, 1):
            torch._dynamo.reset()
            counters.clear()
            model: Any = seeded(Net())
            st.sparsify(model, SPARSITIES["weights"], engine="native")
            torch.compile(model, fullgraph=True)(normal(4, 16, 8, seed=0)).sum().backward()
            assert counters["aot_autograd"]["autograd_cache_hit"] == found
            assert counters["aot_autograd"]["autograd_cache_bypass"] == 0


@pytest.mark.slow
@engines
@kinds
def test_batches_of_any_size_run_one_graph(kind, engine):
    compiled, eager = Run(kind, engine, True), Run(kind, engine, False)
    for batch in (8, 6, 9):  # 128 tokens first, which are padded to as many
        torch.testing.assert_close(
            compiled.step(batch, dynamic=True), eager.step(batch), rtol=1e-3, atol=1e-4
        )
    assert compiled.counter.frame_count == 1
