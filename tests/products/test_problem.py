"""Products, configs and measured entries as numbers and words."""

import pytest
import torch

from sparsetrain.products import Config, Entry, Problem

VIT_L = Problem(torch.bfloat16, 4096, 25216, 1024, "columns", transpose_out=True)
CONFIG = Config("256x192", 1, 2, 8, True)


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
    with pytest.raises(ValueError, match=r"dtype=torch.float32: a problem is of bfloat16, f"):
        Problem(torch.float32, 1, 1, 4, "rows")
    with pytest.raises(ValueError, match="b_layout='row': choose one of columns, rows"):
        Problem(torch.bfloat16, 1, 1, 4, "row")  # pyright: ignore
    with pytest.raises(ValueError, match="has one if its engine is native"):
        Entry("dense", CONFIG, 1.0, 1.0)
