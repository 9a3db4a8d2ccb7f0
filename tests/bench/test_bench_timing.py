"""Rounds, medians and the clocks of a CUDA device."""

import pytest
import torch

from sparsetrain.bench.timing import CALLS, WARM_UP, Times, cuda_clocks, measure


def test_every_round_times_each_run_once_and_starts_with_the_next():
    seen = []

    def clock(run):
        run()
        return 1.0

    measure({name: lambda name=name: seen.append(name) for name in "abc"}, clock, rounds=2)
    assert "".join(seen) == "abcbcacababcbca"
    assert len(seen) == 3 * (WARM_UP + 2)


def test_a_run_may_come_several_times_a_round_and_counts_each_time():
    microseconds = iter([9.0, 9.0, 9.0] * WARM_UP + [1.0, 8.0, 2.0, 8.0, 3.0, 4.0])
    runs = {"a": lambda: None, "b": lambda: None}
    times = measure(runs, lambda run: next(microseconds), rounds=2, order=["a", "b", "a"])
    assert times["a"] == Times(median=2.5, low=1.75, high=3.25)
    assert times["b"].median == 8.0


def test_medians_and_quartiles_leave_the_warm_up_out():
    microseconds = iter([900.0] * WARM_UP + [5.0, 1.0, 3.0, 2.0, 4.0])
    times = measure({"a": lambda: None}, lambda run: next(microseconds), rounds=5)
    assert times == {"a": Times(median=3.0, low=2.0, high=4.0)}
    assert times["a"].spread == pytest.approx(2 / 3)
    assert times["a"].divided(2) == Times(1.5, 1.0, 2.0)


def test_one_round_has_no_spread_and_is_refused():
    with pytest.raises(ValueError, match="rounds=1: give at least 2"):
        measure({}, lambda run: 1.0, rounds=1)


@pytest.mark.gpu
def test_warm_is_not_slower_than_cold_and_a_graph_holds_twenty_calls():
    clocks = cuda_clocks()
    x = torch.randn(2048, 2048, device="cuda")
    runs = {"clone": lambda: x.clone()}
    cold = measure(runs, clocks.cold, 20)["clone"].median
    warm = measure(runs, clocks.warm, 20)["clone"].median
    replay = clocks.capture(runs["clone"])
    graph = measure({"graph": replay}, clocks.warm, 20)["graph"].divided(CALLS).median
    assert warm < cold
    assert 0.3 * warm < graph < 1.1 * warm
