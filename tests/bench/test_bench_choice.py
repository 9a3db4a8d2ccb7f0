"""choose: a measured product as it was measured, any other from its shape."""

import torch

from scripts.bench.choice import choose
from sparsetrain.products import Config, Entry, Problem
from sparsetrain.products.problem import DENSE_FLOPS_PER_US, LAUNCH_US

VIT_L = Problem(torch.bfloat16, 4096, 25216, 1024, "columns", transpose_out=True)
CONFIG = Config("256x192", 1, 2, 8, True)


def problem(M, N, K):
    return Problem(torch.bfloat16, M, N, K, "rows")


def test_what_was_measured_is_chosen_with_its_numbers():
    chosen = choose(VIT_L, {VIT_L: Entry("native", CONFIG, 200.0, 300.0)})
    assert (chosen.engine, chosen.config, chosen.speed_up) == ("native", CONFIG, 1.5)
    assert chosen.why == "measured here: native took 200.0 µs and dense 300.0 µs"


def test_dense_is_chosen_where_nothing_was_faster():
    chosen = choose(VIT_L, {VIT_L: Entry("dense", None, 300.0, 300.0)})
    assert (chosen.engine, chosen.config, chosen.speed_up) == ("dense", None, 1.0)
    assert "nothing was faster" in chosen.why


def test_only_exactly_the_problem_counts():
    entries = {VIT_L: Entry("cusparselt", None, 1.0, 2.0)}
    others = [
        Problem(torch.float16, 4096, 25216, 1024, "columns", True),
        Problem(torch.bfloat16, 4096, 25217, 1024, "columns", True),
        Problem(torch.bfloat16, 4096, 25216, 1024, "rows", True),
        Problem(torch.bfloat16, 4096, 25216, 1024, "columns", False),
        Problem(torch.bfloat16, 4096, 25216, 1024, "columns", True, wide=True),
    ]
    assert choose(VIT_L, entries).engine == "cusparselt"
    for other in others:
        assert choose(other, entries).why.startswith("not measured")


def test_without_a_measurement_native_must_be_expected_to_be_faster_by_a_tenth():
    large = problem(4096, 25216, 1024)
    dense_us = large.flops / DENSE_FLOPS_PER_US
    worth = choose(large, None, dense_us / 1.11 - LAUNCH_US)
    assert (worth.engine, worth.config, worth.speed_up) == ("native", None, None)
    assert worth.why == "not measured; expected 265 µs, dense 294 µs"
    assert choose(large, None, dense_us / 1.09 - LAUNCH_US).engine == "dense"


def test_without_kernels_nothing_is_expected_of_them():
    assert choose(problem(4096, 25216, 1024)).engine == "dense"
