"""Tuning a product: the fastest config whose result is right, with a clock that is made up."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sparsetrain.bench import tune
from sparsetrain.bench.products import Shape, make_product, problem_of
from sparsetrain.bench.products8 import Quantized, quantized
from sparsetrain.bench.timing import cuda_clocks
from sparsetrain.bench.tune import Native, first_configs, tune_product, with_other_groups
from sparsetrain.products import Config, install, tile_names

SMALL = Shape(tokens=136, features=64, hidden=128)
TILES = ["128x256", "256x128"]
FAST = Config("256x128", 2, 1, 2, True)
NEAR = replace(FAST, group=8)
"""Leads to FAST: found first."""


class Library:
    """Runs a product as it was told to last. wrong: configs that leave half of it unwritten."""

    def __init__(self, product):
        self.product, self.config = product, None
        self.wrong: set[Config] = set()
        self.microseconds = {FAST: 100.0, NEAR: 150.0}
        self.dense = 300.0
        self.checked: list[Config] = []

    def install(self, rows):
        (self.config,) = rows.values()
        if self.config.group == 16:
            raise RuntimeError("group 16 is too large\nfor this matrix")

    def native(self) -> Tensor:
        assert self.config is not None
        self.checked.append(self.config)
        out = self.product.masked()
        if self.config in self.wrong:
            out[out.shape[0] // 2 :] = float("nan")
        return out

    def clock(self, run) -> float:
        run()
        if not isinstance(run, Native):
            return self.dense
        assert run.config == self.config, "a run is timed as its own config"
        return self.microseconds.get(run.config, 200.0)


@pytest.fixture
def library(monkeypatch):
    product = make_product("W24 forward", SMALL, torch.bfloat16, torch.device("cpu"))
    library = Library(product)
    monkeypatch.setattr(type(product), "native", lambda self: library.native())
    monkeypatch.setattr(tune, "usable_cusparselt", lambda *arguments: "not here")
    return library


def tuned(library, rounds=2):
    return tune_product(library.product, TILES, library.install, library.clock, rounds)


def test_the_fastest_config_wins_and_the_others_are_given_reasons(library):
    found = tuned(library)
    assert found.entry.config == FAST
    assert (found.entry.engine, found.entry.us, found.entry.dense_us) == ("native", 100.0, 300.0)
    assert found.refused["cusparselt"] == "not here"
    assert found.refused["256x128 cluster 2x1 group 16 stream-k"] == "group 16 is too large"


def test_a_config_that_leaves_a_tile_unwritten_is_never_timed(library):
    library.wrong = {FAST}
    found = tuned(library)
    assert found.entry.config != FAST
    assert found.entry.us == 150.0
    assert "wrong result" in found.refused[str(FAST)]
    assert library.checked.count(FAST) == 1


def test_every_first_config_is_checked_and_four_are_timed_to_the_end(library):
    tuned(library, rounds=100)
    first = set(first_configs(library.product.problem, TILES))
    assert first < set(library.checked)
    assert {c.group for c in set(library.checked) - first} == {1, 2, 4}
    calls = sorted(library.checked.count(c) for c in set(library.checked))
    assert calls[-4] > 100
    assert calls[-5] < 50


def test_dense_wins_where_nothing_is_faster(library):
    library.dense = 90.0
    found = tuned(library)
    assert (found.entry.engine, found.entry.config) == ("dense", None)
    assert found.entry.speed_up == 1.0


def test_dense_wins_where_no_config_is_right(library):
    library.wrong = set(first_configs(library.product.problem, TILES))
    assert tuned(library).entry.engine == "dense"


def test_tiles_clusters_and_stream_k_are_combined_and_then_groups():
    first = first_configs(problem_of("W24 forward", SMALL, torch.bfloat16), TILES)
    assert len(first) == len(set(first)) == 2 * 4 * 2
    assert {(c.cluster_m, c.cluster_n) for c in first} == {(1, 1), (2, 1), (1, 2), (2, 2)}
    assert {c.group for c in first} == {8}
    more = with_other_groups(first[:3])
    assert len(more) == len(set(more)) == 3 * 4
    assert {c.group for c in more} == {1, 2, 4, 16}


def test_the_smallest_tile_is_tried_where_the_result_is_small():
    tiles = ["128x256", "128x128"]
    for tokens, tried in ((1024, {"128x256", "128x128"}), (25216, {"128x256"})):
        problem = problem_of("W24 forward", Shape(tokens, 1024, 4096), torch.bfloat16)
        assert {config.tile for config in first_configs(problem, tiles)} == tried


@pytest.mark.gpu
def test_a_product_is_tuned_on_the_gpu():
    if not torch._C._dispatch_has_kernel("sparsetrain::_matmul24_table"):
        pytest.skip("needs the kernel library with products")
    shape = Shape(4096, 768, 3072)
    product = make_product("W24 forward", shape, torch.bfloat16, torch.device("cuda"))
    try:
        found = tune_product(product, tile_names(), install, cuda_clocks().warm, 5)
    finally:
        install({})
    assert 1.0 < found.entry.us <= found.entry.dense_us
    wrong = {what: why for what, why in found.refused.items() if "wrong result" in why}
    assert {w: y for w, y in wrong.items() if w != "cusparselt"} == {}


def test_a_product_in_fp8_is_held_to_its_own_operands_and_has_no_small_tiles(monkeypatch):
    wide = make_product("W24 dX", SMALL, torch.bfloat16, torch.device("cpu"))
    narrow = quantized(wide)
    assert {c.tile for c in first_configs(narrow.problem, [*TILES, "128x128"])} == set(TILES)
    native, seen = Quantized.native, []

    def install(rows):
        seen.append(next(iter(rows.items())))

    def wrong_in_clusters(product):
        factor = 1.02 if seen[-1][1].cluster_m == 2 else 1.0
        return native(product) * factor

    monkeypatch.setattr(Quantized, "native", wrong_in_clusters)

    def clock(run):
        run()
        return 100.0 if isinstance(run, Native) else 300.0

    found = tune_product(narrow, TILES, install, clock, 2)
    assert {problem for problem, _ in seen} == {narrow.problem}
    assert found.entry.config is not None
    assert (found.entry.engine, found.entry.config.cluster_m) == ("native", 1)
    assert all("wrong result" in why for why in found.refused.values())
    assert found.refused
