"""DDP on two CPU processes: compiled, accumulating and checkpointing, it trains as one process."""

from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from nn_checks import layers
from nn_ranks import assert_same_on_every_rank, own_half
from nn_sharded import (
    ALL,
    IMAGES,
    LABELS,
    METHODS,
    VARIANTS,
    WEIGHTS,
    assert_same_weights,
    sgd,
    sharded,
    sparse_model,
    train,
    wrapped,
)
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.parallel import DistributedDataParallel

import sparsetrain as st

OPTIONS = {"static_graph": True, "gradient_as_bucket_view": True}
SMALL_BUCKET = 1000
"""Bytes, of a DDP bucket."""


def losses_are_those_of_one_process(variant, options):
    sparsity = {**VARIANTS, **METHODS}[variant]
    model, alone = (sparse_model(sparsity, mask_every=2) for _ in range(2))
    ddp = DistributedDataParallel(model, **options)
    expected = train(alone, halved=False)
    assert train(ddp) == pytest.approx(expected, abs=1e-6)
    for layer in layers(ddp).values():
        assert_same_on_every_rank(layer.mask)
    assert_same_weights(ddp, alone, atol=1e-5)
    assert st.density(ddp) == st.density(alone)


@pytest.mark.parametrize("method", METHODS)
def test_methods_that_look_at_gradients_choose_the_same_on_every_rank(ranks, method):
    ranks(losses_are_those_of_one_process, method, {})


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("variant", "options"),
    [
        ("weights", {}),
        slow("weights", OPTIONS),
        ("activations", {}),
        slow("activations", OPTIONS),
        slow("all", {}),
        ("all", OPTIONS),
    ],
)
def test_two_ranks_train_as_one_process_with_both_batches(ranks, variant, options):
    ranks(losses_are_those_of_one_process, variant, options)


def weights_of_other_ranks_count(own_seed):
    rank = dist.get_rank()
    model = sparse_model(WEIGHTS, seed=own_seed + rank)
    ddp = DistributedDataParallel(model)
    with torch.no_grad():
        assert_same_on_every_rank(model(IMAGES))
    st.update_masks(ddp)
    for layer in layers(ddp).values():
        assert_same_on_every_rank(layer.mask)


def test_masks_are_those_of_the_weights_that_ddp_sent(ranks):
    ranks(weights_of_other_ranks_count, 5)


def accumulation_packs_once():
    model, alone = sparse_model(ALL), sparse_model(ALL)
    ddp = DistributedDataParallel(model)
    optimizers = sgd(ddp), sgd(alone)
    for one, optimizer in zip((ddp, alone), optimizers, strict=True):
        st.attach(one, optimizer)
    for _ in range(2):
        with st.packed_once(ddp):
            held = [layer.held for layer in layers(model).values()]
            with ddp.no_sync():
                _backward(ddp, own_half(IMAGES)[:2], own_half(LABELS)[:2])
            _backward(ddp, own_half(IMAGES)[2:], own_half(LABELS)[2:])
            assert None not in held
            assert all(m.held is h for m, h in zip(layers(model).values(), held, strict=True))
        _backward(alone, IMAGES, LABELS, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert_same_weights(ddp, alone, atol=1e-5)


def _backward(model, images, labels, share=0.5):
    (share * nn.functional.mse_loss(model(images), labels)).backward()


def test_accumulated_gradients_are_those_of_the_whole_batch_with_weights_packed_once(ranks):
    ranks(accumulation_packs_once)


def gradients_are_those_without(strategy):
    models = [
        wrapped(sparse_model(ALL, checkpointed=again, mask_every=2), strategy)
        for again in (True, False)
    ]
    losses = [train(model) for model in models]
    assert losses[0] == losses[1]
    assert_same_weights(*models, atol=0)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_activation_checkpointing_changes_nothing(ranks, strategy):
    ranks(gradients_are_those_without, strategy)


def compiled_losses_are_eager_ones(strategy):
    model, other = (sparse_model(ALL, mask_every=2) for _ in range(2))
    eager = wrapped(other, strategy)
    counter = CompileCounterWithBackend("aot_eager")
    if strategy == "ddp":
        # DDPOptimizer splits the graph where a bucket is full: here after every few weights.
        with patch.object(dist, "_DEFAULT_FIRST_BUCKET_BYTES", SMALL_BUCKET):
            ddp = DistributedDataParallel(model, bucket_cap_mb=SMALL_BUCKET / 2**20)
            compiled: Any = torch.compile(ddp, backend=counter)
            losses = train(compiled)
        assert counter.frame_count > 3
    else:
        for block in model.blocks:
            block.compile(backend=counter, fullgraph=True)
        losses = train(sharded(model))
        assert counter.frame_count > 0
    assert losses == pytest.approx(train(eager), abs=1e-6)
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_compiled_models_train_as_eager_ones(ranks, strategy):
    ranks(compiled_losses_are_eager_ones, strategy)
