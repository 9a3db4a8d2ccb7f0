"""Order and split are pure functions of (seed, epoch, rank)."""

from typing import Any

import pytest

from sparsetrain.lightning.data import EpochSampler, EvalBatches


def batches(sampler):
    keys = list(sampler)
    size = sampler.batch_size
    return [keys[i : i + size] for i in range(0, len(keys), size)]


def test_the_order_of_seed_and_epoch_never_changes():
    sampler = EpochSampler(8, batch_size=2, seed=1)
    sampler.set_epoch(3)
    assert [index for _, index in sampler] == [4, 1, 6, 0, 3, 5, 2, 7]


def test_keys_carry_the_epoch():
    sampler = EpochSampler(8, batch_size=2, seed=0)
    sampler.set_epoch(5)
    assert {epoch for epoch, _ in sampler} == {5}


@pytest.mark.parametrize("different", [{"seed": 2}, {"epoch": 1}])
def test_another_seed_or_epoch_is_another_order(different):
    def order(seed=1, epoch=0):
        sampler = EpochSampler(100, batch_size=1, seed=seed)
        sampler.set_epoch(epoch)
        return [index for _, index in sampler]

    assert order() == order()
    assert order(**different) != order()


@pytest.mark.parametrize("length", [48, 50, 55])
@pytest.mark.parametrize("skipped", [0, 2])
def test_step_k_of_many_processes_is_step_k_of_one(length, skipped):
    def sampler(batch_size, rank, world_size):
        made = EpochSampler(length, batch_size=batch_size, seed=1, rank=rank, world_size=world_size)
        made.skip(0, skipped)
        return batches(made)

    one = sampler(12, 0, 1)
    four = [sampler(3, rank, 4) for rank in range(4)]
    assert len(one) == 4 - skipped
    for step, samples in enumerate(one):
        together = [key for process in four for key in process[step]]
        assert sorted(together) == sorted(samples)


def test_only_the_remainder_that_fills_no_batch_is_dropped():
    sampler = EpochSampler(11, batch_size=4, seed=0)
    assert len(sampler) == len(set(sampler)) == 8


def test_without_shuffling_the_order_is_that_of_the_set():
    assert [i for _, i in EpochSampler(5, batch_size=2, seed=0, shuffle=False)] == [0, 1, 2, 3]


def test_skipping_starts_later_in_that_epoch_only_and_leaves_the_length():
    whole = EpochSampler(12, batch_size=2, seed=0)
    resumed = EpochSampler(12, batch_size=2, seed=0)
    resumed.skip(1, 4)
    for epoch in (0, 1, 2):
        whole.set_epoch(epoch)
        resumed.set_epoch(epoch)
        assert list(resumed) == list(whole)[8 if epoch == 1 else 0 :]
        assert len(resumed) == 12


def test_skipping_past_the_epoch_is_refused():
    with pytest.raises(ValueError, match=r"batches=7 is outside the epoch's 0\.\.6"):
        EpochSampler(12, batch_size=2, seed=0).skip(0, 7)


def test_a_batch_larger_than_the_set_is_refused_with_the_largest_that_fits():
    with pytest.raises(ValueError, match=r"batch_size=8 on 2 .* 16 .* there are 15; .* at most 7"):
        EpochSampler(15, batch_size=8, seed=0, world_size=2)


@pytest.mark.parametrize("make", [EpochSampler, EvalBatches])
def test_a_rank_outside_the_world_is_refused(make):
    settings: Any = {"seed": 0} if make is EpochSampler else {}
    with pytest.raises(ValueError, match=r"rank=2 is not in 0\.\.1"):
        make(8, batch_size=2, rank=2, world_size=2, **settings)


@pytest.mark.parametrize("length", range(4, 60))
def test_validation_sees_every_sample_once_in_as_many_batches_on_every_process(length):
    ranks = [list(EvalBatches(length, batch_size=3, rank=r, world_size=4)) for r in range(4)]
    seen = sorted(index for rank in ranks for batch in rank for _, index in batch)
    assert seen == list(range(length))
    assert len({len(rank) for rank in ranks}) == 1
    assert len(ranks[0]) == len(EvalBatches(length, batch_size=3, rank=0, world_size=4))
    assert all(0 < len(batch) <= 3 for rank in ranks for batch in rank)


def test_a_process_one_sample_short_splits_its_last_full_batch():
    short = list(EvalBatches(9, batch_size=2, rank=1, world_size=2))
    assert [[i for _, i in batch] for batch in short] == [[1, 3], [5], [7]]


def test_more_processes_than_validation_images_is_refused():
    with pytest.raises(ValueError, match=r"3 validation .* 4 processes; .* at most 3"):
        EvalBatches(3, batch_size=2, world_size=4)


def test_a_remainder_at_batch_size_one_is_refused():
    with pytest.raises(ValueError, match=r"batch_size=1 cannot split 5"):
        EvalBatches(5, batch_size=1, world_size=2)
