"""torch.compile of the blocks of a network in shards, on two CPU processes."""

from functools import partial
from unittest.mock import patch

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from lightning_helpers import tiny_vit
from nn_ranks import free_port
from nn_sharded_fit import classifier, fit
from torch.distributed.tensor import DTensor

from sparsetrain.lightning.callbacks import compile as compile_module
from sparsetrain.lightning.callbacks.compile import (
    CompileWhereItWorks,
    EagerValidation,
    compile_classifier,
)
from sparsetrain.nn.sharded import local


class Graphs(list):
    """A backend of torch.compile that runs graphs as they are, and counts them."""

    def __call__(self, graph, inputs):
        self.append(graph)
        return graph


class Around(pl.Callback):
    """What the callback between two of these leaves behind in each step."""

    def __init__(self, graphs):
        self.graphs, self.seen, self.whole, self.counts = graphs, [], [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        weights = list(pl_module.parameters())
        grads = [None if w.grad is None else local(w.grad).clone() for w in weights]
        self.seen.append((torch.get_rng_state(), grads))
        self.whole.append(sum(not isinstance(weight, DTensor) for weight in weights))
        self.counts.append(len(self.graphs))

    def on_train_batch_end(self, *_):
        self.counts.append(len(self.graphs))


def compiles_with(backend):
    """Compile on this CPU with a backend of the test's."""
    torch._dynamo.reset()
    return patch.object(torch, "compile", partial(torch.compile, backend=backend))


def automatic(port, folder, backend, *before, module=None, after=(), **settings):
    lines = []
    with compiles_with(backend), patch.object(compile_module, "why_eager", lambda trainer: None):
        callbacks = (*before, CompileWhereItWorks(lines.append), *after)
        return fit(port, folder, module or classifier(), *callbacks, **settings), lines


def blocks_are_compiled_one_by_one(port, folder, precision):
    eager = fit(port, folder, classifier(), precision=precision)
    graphs = Graphs()
    before, after = Around(graphs), Around(graphs)
    watch, lines = automatic(port, folder, graphs, before, after=[after], precision=precision)
    told = ["compile=auto: training steps run under torch.compile, each block by itself"]
    assert lines == (told if dist.get_rank() == 0 else [])
    assert watch.losses == pytest.approx(eager.losses, abs=1e-6)
    assert watch.trained == 6 * [[True, True, True, False]]
    assert watch.validated
    assert all(not any(blocks) for blocks in watch.validated)

    # A rate of drop path each, sparse in the first step and dense in the fourth; steps add none.
    assert before.counts == [0, 3, 3, 3, 3, 3, 3, 6, 6, 6, 6, 6]
    assert after.counts == [3, 3, 3, 3, 3, 3, 6, 6, 6, 6, 6, 6]
    for old, new in zip(before.seen, after.seen, strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=0)
    assert [after.whole[0], after.whole[3]] == [0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_blocks_in_shards_are_compiled_one_by_one_and_trained_as_eager(ranks, tmp_path, precision):
    ranks(blocks_are_compiled_one_by_one, free_port(), tmp_path, precision)


def one_rank_cannot_compile(port, folder):
    def backend(graph, inputs):
        if dist.get_rank() == 1:
            raise RuntimeError("no such instruction")
        return graph

    eager = fit(port, folder, classifier())
    watch, lines = automatic(port, folder, backend)
    why = "compile=auto: training steps run eager, because compiling failed: on another process"
    assert lines[1:] == ([why] if dist.get_rank() == 0 else [])
    assert watch.losses == eager.losses
    assert not any(map(any, watch.trained))


@pytest.mark.slow
def test_a_rank_that_cannot_compile_has_all_train_eager(ranks, tmp_path):
    ranks(one_rank_cannot_compile, free_port(), tmp_path)


def a_frozen_block_is_compiled(port, folder):
    network = tiny_vit(depth=3)
    network.blocks[1].requires_grad_(False)
    graphs = Graphs()
    watch, lines = automatic(port, folder, graphs, module=classifier(network))
    assert len(lines) == (dist.get_rank() == 0)
    assert len(graphs) == 7  # its masks are chosen after the first step only
    assert watch.trained == 6 * [[True, True, True, False]]


@pytest.mark.slow
def test_a_frozen_block_is_compiled_as_well(ranks, tmp_path):
    ranks(a_frozen_block_is_compiled, free_port(), tmp_path)


def what_was_asked_for_is_compiled(port, folder):
    eager = fit(port, folder, classifier())
    module, graphs = classifier(), Graphs()
    with compiles_with(graphs):
        compile_classifier(module)
        watch = fit(port, folder, module, EagerValidation())
    assert len(graphs) == 6
    assert watch.losses == pytest.approx(eager.losses, abs=1e-6)
    assert watch.trained == 6 * [[True, True, True, False]]
    assert all(not any(blocks) for blocks in watch.validated)


@pytest.mark.slow
def test_compile_true_compiles_the_blocks_as_well(ranks, tmp_path):
    ranks(what_was_asked_for_is_compiled, free_port(), tmp_path)


def blocks_train_under_inductor(port, folder):
    eager = fit(port, folder, classifier(), max_epochs=1)
    torch._dynamo.reset()
    module = classifier()
    compile_classifier(module)
    watch = fit(port, folder, module, EagerValidation(), max_epochs=1)
    assert watch.losses == pytest.approx(eager.losses, abs=1e-5)


@pytest.mark.slow
def test_blocks_in_shards_train_under_inductor_as_eager(ranks, tmp_path):
    ranks(blocks_train_under_inductor, free_port(), tmp_path)
