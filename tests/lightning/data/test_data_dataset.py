"""A sample's random numbers come from (seed, epoch, index) and leave no trace."""

import random

import numpy as np
import pytest
import torch
from data_helpers import Counting, Numbered

from sparsetrain.lightning.data import SeededImages


def draw(image):
    return torch.tensor([random.random(), np.random.rand(), torch.rand(()).item()])


def global_draws():
    return random.random(), np.random.rand(), torch.rand(()).item()


def test_the_same_key_draws_the_same_from_all_three_generators_whatever_came_before():
    images = SeededImages(Counting(4), draw, seed=1)
    first = images[(2, 3)][0]
    global_draws()
    assert torch.equal(images[(2, 3)][0], first)


@pytest.mark.parametrize(("seed", "key"), [(1, (2, 2)), (1, (3, 3)), (2, (2, 3))])
def test_each_of_seed_epoch_and_index_changes_all_three(seed, key):
    first = SeededImages(Counting(4), draw, seed=1)[(2, 3)][0]
    assert not (SeededImages(Counting(4), draw, seed=seed)[key][0] == first).any()


def test_global_generators_go_on_as_if_nothing_was_loaded():
    def set_seeds():
        random.seed(5)
        np.random.seed(5)
        torch.manual_seed(5)

    set_seeds()
    expected = global_draws()
    set_seeds()
    SeededImages(Counting(4), draw, seed=1)[(0, 0)]
    assert global_draws() == expected


def test_global_generators_are_restored_after_an_error():
    def fail(image):
        raise KeyError

    torch.manual_seed(5)
    expected = torch.rand(())
    torch.manual_seed(5)
    with pytest.raises(KeyError):
        SeededImages(Counting(4), fail, seed=1)[(0, 0)]
    assert torch.equal(torch.rand(()), expected)


@pytest.mark.parametrize("workers", [0, 1])
def test_making_and_reading_a_loader_draws_nothing_from_the_global_generator(workers):
    data = Numbered(num_workers=workers)
    data.setup()
    before = torch.get_rng_state()
    list(data.train_dataloader())
    list(data.val_dataloader())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_plain_index_says_that_the_sampler_was_replaced():
    with pytest.raises(TypeError, match=r"key=3 .*use_distributed_sampler=False"):
        SeededImages(Counting(4), draw, seed=1)[3]  # pyright: ignore[reportArgumentType]
