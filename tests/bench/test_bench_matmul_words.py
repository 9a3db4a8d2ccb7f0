"""The words of scripts/bench/matmul.py."""

import pytest
import torch

from scripts.bench.matmul import parse
from scripts.bench.matmul_peers import DEFAULT_PEERS
from sparsetrain.bench.products import PRODUCTS, SHAPES, Shape


def test_by_default_five_shapes_six_products_in_bfloat16_and_the_peers_that_are_not_slow():
    options = parse([])
    assert options.shapes == SHAPES
    assert len(options.shapes) == 5
    assert options.products == PRODUCTS
    assert options.dtype == torch.bfloat16
    assert options.peers == DEFAULT_PEERS
    assert (options.rounds, options.random, options.json, options.picture) == (20, 0, None, None)


def test_words_choose_everything():
    words = ["shapes=[64x32x16,8x4x4]", "products=w24-dx,act24-dw", "dtype=float16", "rounds=9"]
    options = parse([*words, "peers=false", "json=a/b.json", "picture=c.png"])
    assert options.shapes == (Shape(64, 32, 16), Shape(8, 4, 4))
    assert options.products == ("W24 dX", "act24 dW")
    assert (options.dtype, options.rounds, options.peers) == (torch.float16, 9, ())
    assert (str(options.json), str(options.picture)) == ("a/b.json", "c.png")
    assert parse(["peers=cusparselt-search"]).peers == ("cusparselt-search",)


def test_random_takes_a_seed():
    options = parse(["random=200", "seed=7", "products=dz24-dx"])
    assert (options.random, options.seed, options.products) == (200, 7, ("dz24 dX",))
    assert parse(["random=200"]).seed == 0


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["w24"], "'w24' is not of the form key=value"),
        (["product=w24-dx"], "product= is no option of bench: did you mean products"),
        (["products=w24-dW"], "products='w24-dW' is unknown: did you mean w24-d"),
        (["products="], "products='': name at least one of w24-forward"),
        (["shapes=64x64"], "shapes='64x64': give TOKENSxFEATURESxHIDDEN"),
        (["shapes=64x30x64"], "30 features are not a multiple of 4"),
        (["dtype=float32"], "dtype='float32': choose one of bfloat16, float16, fp8, int8"),
        (["rounds=1"], "rounds='1': give a number of at least 2"),
        (["peers=cutlass"], "peers='cutlass' is unknown: did you mean torch-cutlass"),
        (["random=0"], "random='0': give a number of at least 1"),
        (["seed=1"], "seed= goes with random="),
        (["random=9", "shapes=64x64x64"], "shapes= goes without random="),
        (["random=9", "picture=a.png"], "picture= goes without random="),
    ],
)
def test_a_wrong_word_is_named_with_what_would_be_right(words, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse(words)
