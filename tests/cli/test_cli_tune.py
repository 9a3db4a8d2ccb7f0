"""`tune`: its words, the products of a recipe, what it prints and keeps."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from cli_helpers import call

from sparsetrain import native
from sparsetrain.bench.products import PRODUCTS, Shape, problem_of
from sparsetrain.bench.products8 import E4M3, PRODUCTS8, problem_in
from sparsetrain.bench.tune import Tuned
from sparsetrain.cli import tune as tune_module
from sparsetrain.cli.tune_layers import products_of_recipe
from sparsetrain.native import Library
from sparsetrain.products import Config, Entry, Key, Table, read_table, table_path
from sparsetrain.recipe import compose

KEY = Key("NVIDIA H200", "580", "2.11", "13.0", "key")
NATIVE = Entry("native", Config("128x256", 2, 1, 8, True), 200.0, 300.0)


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """An H200 that measures at once; the names of what it measured. Ctrl-C comes at the fifth."""
    measured = []

    def make_product(name, shape, dtype, device):
        assert device.type == "cuda"
        return SimpleNamespace(name=name, problem=problem_of(name, shape, dtype))

    def tune_product(product, tiles, install, clock, rounds):
        if len(measured) == 4:
            raise KeyboardInterrupt
        assert tiles == ["128x256"]
        measured.append(product.name)
        dense = Entry("dense", None, 300.0, 300.0), {"cusparselt": "it refused"}
        return Tuned(*dense) if product.name == "W24 dX" else Tuned(NATIVE, dense[1])

    library = Library(Path("/cache/key/library.so"), ("90a",))
    monkeypatch.setenv("SPARSETRAIN_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch._C, "_dispatch_has_kernel", lambda name: True)
    monkeypatch.setattr(native, "require", lambda: library)
    for name, fake in {
        "machine_key": lambda path: KEY,
        "load_table": lambda: None,
        "cuda_clocks": lambda: SimpleNamespace(warm=None),
        "tile_names": lambda: ["128x256"],
        "install": lambda configs: True,
        "why_not_native": lambda gpu, library: "",
        "make_product": make_product,
        "tune_product": tune_product,
    }.items():
        monkeypatch.setattr(tune_module, name, fake)
    return measured


def kept():
    return read_table(table_path(KEY), KEY).entries


def test_what_won_is_printed_and_kept(machine, monkeypatch):
    monkeypatch.setattr(tune_module, "PRODUCTS", ("W24 forward", "W24 dX"))
    ended = call("tune", "shapes=1024x256x512")
    assert ended.status == 0, ended.err
    forward, dx = (line for line in ended.out.splitlines() if line.startswith("W24"))
    assert "native 128x256 cluster 2x1 group 8 stream-k" in forward
    assert forward.split()[-3:] == ["200.0", "300.0", "1.50×"]
    assert dx.split()[-4:] == ["dense", "300.0", "300.0", "1.00×"]
    assert "geometric mean  1.22×" in ended.out
    assert "not timed: cusparselt for W24 forward 1024x256x512: it refused (2 times)" in ended.out
    problem = problem_of("W24 forward", Shape(1024, 256, 512), torch.bfloat16)
    assert kept()[problem] == NATIVE
    assert len(kept()) == 2


def test_stopped_it_keeps_what_it_measured(machine):
    ended = call("tune", "shapes=1024x256x512")
    assert (ended.status, ended.complaint) == (130, "interrupted")
    assert len(machine) == len(kept()) == 4


def test_what_is_in_the_table_already_stays(machine, monkeypatch):
    other = problem_of("dz24 dW", Shape(64, 64, 64), torch.float16)
    table = Table(KEY).with_entry(other, NATIVE)
    monkeypatch.setattr(tune_module, "load_table", lambda: table)
    monkeypatch.setattr(tune_module, "PRODUCTS", ("W24 forward",))
    assert call("tune", "shapes=1024x256x512").status == 0
    assert kept()[other] == NATIVE
    assert len(kept()) == 2


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("1024x256x512", ["'1024x256x512'", "key=value"]),
        ("shape=1x4x4", ["shape=", "did you mean shapes"]),
        ("shapes=1024x256", ["shapes='1024x256'", "TOKENSxFEATURESxHIDDEN"]),
        ("shapes=64x6x8", ["6 features are not a multiple of 4"]),
        ("dtype=float32", ["dtype='float32': choose one of bfloat16, float16, fp8"]),
        ("rounds=1", ["rounds='1'", "at least 2"]),
        ("recipe=vit_b24", ["recipe='vit_b24'", "did you mean vit_b_24"]),
    ],
)
def test_a_wrong_word_is_answered_in_one_line(word, parts):
    complaint = call("tune", word).complaint
    for part in parts:
        assert part in complaint


def test_a_recipe_and_shapes_exclude_each_other():
    complaint = call("tune", "recipe=vit_b_24", "shapes=64x64x64").complaint
    assert "leave one of them out" in complaint


def test_what_cannot_be_tuned_says_why(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "tune needs a CUDA device" in call("tune").complaint
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    monkeypatch.setattr(native, "require", lambda: Library(Path("/library.so"), ("80",)))
    assert "need compute capability 9.0, and this is sm_80" in call("tune").complaint
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(native, "require", lambda: Library(reason="no nvcc", fix="install it"))
    assert call("tune").complaint == "there is nothing to tune: no nvcc; install it"


# The products of a recipe.


def of_recipe(*words):
    words = ("recipe=vit_tiny_24", "model.options.depth=2", *words)
    return products_of_recipe(compose(list(words)), torch.bfloat16)


def test_a_recipe_has_the_products_of_its_sparse_layers_at_its_batch_size():
    config = compose(["recipe=vit_tiny_24"])
    tokens = config.data.batch_size * 17  # 16 patches and the class token
    found = dict.fromkeys(shape for _, shape, _ in of_recipe())
    assert list(found) == [Shape(tokens, 96, 384), Shape(tokens, 384, 96)]
    assert {name for name, *_ in of_recipe()} == {"W24 forward", "W24 dX"}


def test_a_product_that_two_layers_share_is_tuned_once(machine, monkeypatch):
    assert call("tune", "recipe=vit_tiny_24").status == 0
    # fc2's forward is fc1's grad input; its own grad input has 96 features padded to 128.
    assert machine == ["W24 forward", "W24 dX", "W24 dX"]
    assert {(p.M, p.K) for p in kept()} == {(384, 96), (96, 384), (384, 128)}


def test_row_masks_have_no_sparse_grad_input_and_mvue_a_sparse_grad_weight():
    names = [name for name, *_ in of_recipe("sparsity=s_ste24")]
    assert set(names) == {"W24 forward", "dz24 dW"}


def test_activations_have_four_products_and_with_weights_all_six():
    activations = of_recipe("sparsity=act24")
    assert [name for name, *_ in activations] == ["act24 forward", "dz24 dX", "dz24 dW", "act24 dW"]
    assert len({shape for _, shape, _ in activations}) == 1
    assert {name for name, *_ in of_recipe("sparsity=all24")} == set(PRODUCTS)


def test_what_a_recipe_has_in_fp8_is_tuned_in_fp8_and_the_rest_beside_it():
    weights = of_recipe("sparsity=fp8_24")
    assert {(name, dtype) for name, _, dtype in weights} == {
        ("W24 forward", E4M3),
        ("W24 dX", E4M3),
    }
    found = of_recipe("sparsity=all24", "+sparsity.format._target_=sparsetrain.FP8")
    # dz24 dX is the product that act24 forward is: b lies column by column in both.
    assert {name for name, _, dtype in found if dtype == E4M3} == set(PRODUCTS8) - {"dz24 dX"}
    assert {name for name, _, dtype in found if dtype == torch.bfloat16} == {"act24 dW", "dz24 dW"}


def test_shapes_are_tuned_in_fp8(machine, monkeypatch):
    monkeypatch.setattr(tune_module, "PRODUCTS8", PRODUCTS8[:2])
    monkeypatch.setattr(
        tune_module,
        "quantized",
        lambda wide: SimpleNamespace(
            name=wide.name, problem=replace(wide.problem, dtype=E4M3, b_layout="columns")
        ),
    )
    ended = call("tune", "shapes=1024x256x512", "dtype=fp8")
    assert ended.status == 0, ended.err
    assert [line.split("  ")[0] for line in ended.out.splitlines() if line.startswith("W24")] == [
        "W24 forward fp8",
        "W24 dX fp8",
    ]
    assert problem_in("W24 forward", Shape(1024, 256, 512), E4M3) in kept()
    complaint = call("tune", "recipe=vit_b_24", "dtype=fp8").complaint
    assert "dtype='fp8' with recipe=: the recipe says what is in fp8" in complaint


def test_a_recipe_of_blocks_has_nothing_to_tune():
    with pytest.raises(ValueError, match="this recipe has no 2:4 products"):
        products_of_recipe(compose(["recipe=vit_tiny_block80"]), torch.bfloat16)


def test_a_dense_recipe_has_nothing_to_tune():
    with pytest.raises(ValueError, match="trains dense"):
        of_recipe("sparsity=dense")
