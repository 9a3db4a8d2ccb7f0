"""choose: a measured product as it was measured, any other from its shape."""

import pytest
import torch

from sparsetrain.products import Config, Entry, Problem, choose
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


def test_numbers_are_those_of_the_library():
    assert VIT_L.numbers() == [0, 4096, 25216, 1024, 0, 1, 0]
    wide = Problem(torch.float16, 1, 2, 4, "rows", wide=True)
    assert wide.numbers() == [1, 1, 2, 4, 1, 0, 1]


def test_a_config_reads_as_one_says_it():
    assert str(CONFIG) == "256x192 cluster 1x2 group 8 stream-k"
    assert str(Config("128x256", 2, 1, 4, False)) == "128x256 cluster 2x1 group 4"


def test_a_config_is_five_numbers_to_the_library_and_back():
    tiles = ["128x256", "256x192"]
    assert CONFIG.numbers(tiles) == [1, 1, 2, 8, 1]
    assert Config.from_numbers([1, 1, 2, 8, 1], tiles) == CONFIG


@pytest.mark.parametrize(("cluster", "group"), [((3, 1), 8), ((1, 0), 8), ((1, 1), 0)])
def test_a_config_that_no_kernel_runs_is_refused(cluster, group):
    with pytest.raises(ValueError, match=r"config=.* clusters are of 1 or 2 each way"):
        Config("128x256", cluster[0], cluster[1], group, False)


def test_what_is_no_problem_is_refused():
    with pytest.raises(ValueError, match=r"dtype=torch.float32: a problem is of bfloat16 or"):
        Problem(torch.float32, 1, 1, 4, "rows")
    with pytest.raises(ValueError, match="b_layout='row': choose one of columns, rows"):
        Problem(torch.bfloat16, 1, 1, 4, "row")  # pyright: ignore
    with pytest.raises(ValueError, match="has one if its engine is native"):
        Entry("dense", CONFIG, 1.0, 1.0)
