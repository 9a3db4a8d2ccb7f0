"""fp8 on two CPU processes, DDP and FSDP2: what a rank quantizes is what one process would."""

from dataclasses import replace

import pytest
import torch
from nn_ranks import assert_same_on_every_rank, own_half
from nn_sharded import ALL, IMAGES, LABELS, WEIGHTS, full, sparse_model, wrapped
from torch import nn

import sparsetrain as st

VARIANTS = {
    "weights": replace(WEIGHTS, weight=st.STE(), format=st.FP8()),
    "all": replace(ALL, weight=st.STE(), format=st.FP8()),
    "weights by block": replace(WEIGHTS, weight=st.STE(), format=st.FP8("block")),
}


def outputs_and_gradients_are_those_of_one_process(variant, strategy):
    model, alone = (sparse_model(VARIANTS[variant]) for _ in range(2))
    model = wrapped(model, strategy)
    images, labels = own_half(IMAGES), own_half(LABELS)
    y = model(images)
    # Each token has scales of its own, and a weight those of the whole weight.
    assert torch.equal(y, own_half(alone(IMAGES)))
    nn.functional.mse_loss(y, labels).backward()
    nn.functional.mse_loss(alone(IMAGES), LABELS).backward()
    of_one_process = dict(alone.named_parameters())
    for name, weight in model.named_parameters():
        found = full(weight.grad)
        assert_same_on_every_rank(found)
        torch.testing.assert_close(
            found, of_one_process[name.removeprefix("module.")].grad, rtol=0, atol=1e-6
        )


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_two_ranks_compute_in_fp8_what_one_process_does(ranks, variant, strategy):
    ranks(outputs_and_gradients_are_those_of_one_process, variant, strategy)
