"""scripts/bench/configs.py: with a library that is made up, and on a GPU."""

import json

import pytest
import torch

from scripts.bench import configs
from sparsetrain.bench.products import Product, Shape, make_product
from sparsetrain.bench.timing import Clocks, Times
from sparsetrain.products import Config

SMALL = Shape(tokens=144, features=64, hidden=128)
TILES = ["128x256", "256x128"]
BEST = Config("256x128", 1, 2, 8, True)


class Library:
    """Runs what it was told last: BEST takes 10 µs, what it chooses 12, any other config 20."""

    def __init__(self):
        self.config = None
        self.told = []

    def install(self, rows):
        self.config = next(iter(rows.values()), None)
        self.told.append(dict(rows))

    def clock(self, run):
        run()
        return {BEST: 10.0, None: 12.0}.get(self.config, 20.0)


@pytest.fixture
def library():
    return Library()


def test_every_config_is_timed_and_the_choice_without_a_table(library):
    product = make_product("W24 forward", SMALL, torch.bfloat16, torch.device("cpu"))
    times = configs.time_configs(product, TILES, library.install, library.clock, 2)
    assert len(times) == 2 * 4 * 2 + 1
    found = configs.Found("W24 forward", str(SMALL), product.problem, times)
    assert found.best == "256x128 c1x2 sk"
    assert found.slower == 1.2
    assert (found.best_of("128x256"), found.best_of("256x128")) == (20, 10)
    assert library.told[-1] == {}, "the library is left as it was"


def test_the_choice_is_judged_in_the_mean_and_at_worst():
    def found(product, chosen):
        times = {"256x128 c1x1": Times(10, 9, 11), configs.CHOSEN: Times(chosen, 9, 11)}
        problem = make_product(product, SMALL, torch.bfloat16, torch.device("cpu")).problem
        return configs.Found(product, str(SMALL), problem, times)

    text = configs.summary([found("W24 forward", 10), found("W24 dX", 12.1)])
    assert text == (
        "the choice is 10.0% slower than the best config in the mean,"
        " 21.0% at worst: W24 dX 144x64x128"
    )


def test_the_command_shows_a_row_for_each_product_and_writes_them(
    library, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(configs, "cuda_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(configs, "library_words", lambda: "a library")
    monkeypatch.setattr(configs, "environment", lambda *words: {"command": words[0]})
    monkeypatch.setattr(configs, "tile_names", lambda: TILES)
    monkeypatch.setattr(configs, "install", library.install)
    clocks = Clocks(library.clock, library.clock, lambda run: run)
    monkeypatch.setattr(configs, "cuda_clocks", lambda: clocks)
    monkeypatch.setattr(Product, "native", lambda self: self.masked())
    file = tmp_path / "configs.json"
    words = ["shapes=144x64x128", "products=w24-forward,w24-dx", "rounds=2", f"json={file}"]
    configs.main(words)
    shown = capsys.readouterr().out
    assert "256x128 c1x2 sk" in shown
    assert "20.0% slower than the best config" in shown
    written = json.loads(file.read_text("utf-8"))
    assert [of["product"] for of in written["products"]] == ["W24 forward", "W24 dX"]
    assert written["products"][0]["sizes"] == {"M": 128, "N": 144, "K": 64}
    assert written["products"][0]["us"]["chosen"]["median"] == 12
    assert "scripts.bench.configs shapes=144x64x128" in written["about"]["command"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("dtype=fp9", "dtype='fp9': choose one of bfloat16, float16, fp8, int8"),
        ("products=w24-up", "w24-up"),
        ("rounds=1", "rounds='1': give a number of at least 2"),
    ],
)
def test_a_wrong_word_is_one_line(word, message):
    with pytest.raises(ValueError, match=message):
        configs.main([word])


@pytest.mark.gpu
def test_the_configs_of_an_fp8_product_on_the_gpu(capsys):
    if not torch._C._dispatch_has_kernel("sparsetrain::_matmul24_table"):
        pytest.skip("needs the kernel library with products")
    configs.main(["dtype=fp8", "shapes=4096x768x3072", "products=w24-forward", "rounds=2"])
    assert "slower than the best config" in capsys.readouterr().out
