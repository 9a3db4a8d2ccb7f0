"""The words of `bench step` and of scripts/bench/mlp.py."""

import pytest

from scripts.bench import mlp
from scripts.bench.mlp import parse as parse_mlp
from scripts.bench.mlp_measure import SHAPES
from scripts.bench.mlp_peers import PEERS
from sparsetrain.bench.products import Shape
from sparsetrain.bench.variants import VARIANTS
from sparsetrain.cli.bench import bench
from sparsetrain.cli.bench_step import bench_step
from sparsetrain.cli.bench_step import parse as parse_step


def names(found):
    return [one.name for one in found]


def test_by_default_a_step_is_of_three_models_with_their_batches_in_every_variant():
    options = parse_step([])
    assert [(vit.name, vit.batch) for vit in options.vits] == [
        ("vit_b", 256),
        ("vit_l", 128),
        ("vit_h", 64),
    ]
    assert names(options.variants) == list(VARIANTS)
    assert (options.rounds, options.mode, options.json, options.picture) == (
        10,
        "default",
        None,
        None,
    )


def test_words_choose_the_models_batch_variants_and_mode_of_a_step():
    words = ["models=vit_l", "batch=32", "variants=dense,all+attn", "compile=reduce-overhead"]
    options = parse_step([*words, "rounds=3", "json=a/b.json", "picture=c.png"])
    assert [(vit.name, vit.batch) for vit in options.vits] == [("vit_l", 32)]
    assert names(options.variants) == ["dense", "all+attn"]
    assert (options.rounds, options.mode) == (3, "reduce-overhead")
    assert (str(options.json), str(options.picture)) == ("a/b.json", "c.png")


@pytest.mark.parametrize("parse", [parse_step, parse_mlp])
def test_dense_is_there_though_it_is_not_named(parse):
    assert names(parse(["variants=weights"]).variants) == ["dense", "weights"]


def test_by_default_an_mlp_is_that_of_three_models_with_every_peer():
    options = parse_mlp([])
    assert options.shapes == SHAPES
    assert len(options.shapes) == 3
    assert options.peers == PEERS
    assert options.rounds == 20
    assert names(options.variants) == [
        "dense-eager",
        "dense",
        "dense-relu2",
        "weights",
        "activations",
        "all",
    ]


def test_words_choose_the_shapes_and_peers_of_an_mlp():
    words = ["shapes=64x32x16,8x4x4", "variants=dense,all", "peers=torchao-weights", "rounds=2"]
    options = parse_mlp([*words, "compile=max-autotune"])
    assert options.shapes == (Shape(64, 32, 16), Shape(8, 4, 4))
    assert names(options.variants) == ["dense", "all"]
    assert (options.peers, options.rounds, options.mode) == (
        ("torchao-weights",),
        2,
        "max-autotune",
    )
    assert parse_mlp(["peers=false"]).peers == ()


@pytest.mark.parametrize(
    ("parse", "words", "complaint"),
    [
        (parse_step, ["vit_l"], "'vit_l' is not of the form key=value"),
        (parse_step, ["model=vit_l"], "model= is no option of bench: did you mean models"),
        (parse_step, ["models=vit_x"], "models='vit_x' is unknown: "),
        (parse_step, ["variants=weight"], "variants='weight' is unknown: did you mean weights"),
        (parse_step, ["batch=0"], "batch='0': give a number of at least 1"),
        (parse_step, ["rounds=1"], "rounds='1': give a number of at least 2"),
        (parse_step, ["compile=reduce"], "compile='reduce' is unknown: "),
        (parse_mlp, ["shapes=64x64"], "shapes='64x64': give TOKENSxFEATURESxHIDDEN"),
        (parse_mlp, ["variants=all[+]attn"], "is unknown: "),
        (parse_mlp, ["peers=xformers"], "peers='xformers' is unknown: did you mean xformers-"),
        (parse_mlp, ["models=vit_l"], "models= is no option of bench"),
    ],
)
def test_a_wrong_word_is_named_with_what_would_be_right(parse, words, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse(words)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "bench needs a name: python -m sparsetrain bench step"),
        (["stop"], "bench 'stop' is unknown: there is step"),
        (["matmul", "rounds=2"], r"run `python -m scripts\.bench\.matmul` in a checkout"),
        (["mlp"], r"run `python -m scripts\.bench\.mlp` in a checkout"),
        (["sparsify"], r"run `python -m scripts\.bench\.sparsify` in a checkout"),
    ],
)
def test_a_benchmark_that_is_not_in_the_package_is_answered_with_where_it_is(words, complaint):
    with pytest.raises(ValueError, match=complaint):
        bench(words)


@pytest.mark.parametrize("main", [mlp.main, bench_step])
def test_without_a_device_one_error_says_so(monkeypatch, main):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match="needs a CUDA device"):
        main([])


@pytest.mark.parametrize("main", [mlp.main, bench_step])
def test_without_matplotlib_a_picture_is_refused_at_once(monkeypatch, main):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ValueError, match=r"picture= needs matplotlib .*sparsetrain\[bench\]"):
        main(["picture=a.png"])
