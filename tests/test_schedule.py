"""Phases and mask updates by the step."""

import pytest

from sparsetrain.schedule import Schedule, mask_due, phase, sparse_span


def phases(schedule, total):
    return [phase(schedule, step, total) for step in range(total)]


def due(schedule, total):
    return [step for step in range(total) if mask_due(schedule, step, total)]


def test_without_fractions_every_step_is_sparse():
    assert phases(Schedule(), 5) == ["sparse"] * 5


def test_the_phases_follow_each_other_at_their_fractions():
    schedule = Schedule(dense_warmup=0.2, dense_tail=0.3)
    assert phases(schedule, 10) == ["dense_warmup"] * 2 + ["sparse"] * 5 + ["dense_tail"] * 3
    assert sparse_span(schedule, 10) == (2, 7)


def test_a_sixth_of_the_run_is_a_tail_of_whole_steps():
    assert sparse_span(Schedule(dense_tail=1 / 6), 600) == (0, 500)
    assert sparse_span(Schedule(dense_tail=1 / 6), 10) == (0, 8)


def test_a_phase_may_be_the_whole_run():
    assert phases(Schedule(dense_warmup=1.0), 3) == ["dense_warmup"] * 3
    assert phases(Schedule(dense_tail=1.0), 3) == ["dense_tail"] * 3
    assert "sparse" not in phases(Schedule(dense_warmup=0.5, dense_tail=0.5), 10)


def test_past_the_end_the_last_phase_goes_on():
    assert phase(Schedule(), 10, 10) == "sparse"
    assert phase(Schedule(dense_tail=0.1), 12, 10) == "dense_tail"
    assert phase(Schedule(dense_warmup=1.0), 12, 10) == "dense_warmup"


def test_by_default_masks_are_chosen_before_every_step():
    assert due(Schedule(), 4) == [0, 1, 2, 3]


def test_masks_are_chosen_every_n_steps():
    assert due(Schedule(mask_every=4), 10) == [0, 4, 8]


def test_the_first_sparse_step_chooses_masks_even_between_two_updates():
    assert due(Schedule(dense_warmup=0.3, mask_every=5), 10) == [0, 3, 5]


def test_dense_phases_keep_the_pace():
    assert due(Schedule(dense_warmup=0.5, dense_tail=0.2, mask_every=2), 10) == [0, 2, 4, 5, 6, 8]


def test_frozen_masks_stay():
    assert due(Schedule(freeze_at=0.5), 10) == [0, 1, 2, 3, 4]
    assert due(Schedule(freeze_at=1.0), 4) == [0, 1, 2, 3]


def test_frozen_at_zero_chooses_once_at_the_first_sparse_step():
    assert due(Schedule(freeze_at=0.0), 10) == [0]
    assert due(Schedule(dense_warmup=0.3, freeze_at=0.0), 10) == [0, 3]


@pytest.mark.parametrize("name", ["dense_warmup", "dense_tail", "freeze_at"])
@pytest.mark.parametrize("value", [-0.1, 1.5, 30, float("nan")])
def test_what_is_not_a_fraction_is_refused_by_name_and_value(name, value):
    with pytest.raises(ValueError, match=rf"schedule\.{name}={value}: give a fraction"):
        Schedule(**{name: value})


def test_dense_phases_longer_than_the_run_are_refused():
    with pytest.raises(ValueError, match=r"dense_warmup=0\.6 and dense_tail=0\.5 add up"):
        Schedule(dense_warmup=0.6, dense_tail=0.5)


@pytest.mark.parametrize("value", [0, -1, 2.5])
def test_mask_every_is_a_whole_number_from_1(value):
    with pytest.raises(ValueError, match=rf"schedule\.mask_every={value}: give a whole number"):
        Schedule(mask_every=value)
