"""Which λ the rule of flip rates takes."""

import decay
from plan import variants


def row(variant, mean, top1=60.0, value=None, seed=0, epochs=60, words=()):
    config = {} if value is None else {"sparsity.weight.decay": value}
    flips = {"first": 0.0, "highest": 1.0, "mean": mean, "last": 0.0}
    return {
        "data": "cifar10",
        "recipe_digest": "c0ffee",
        "variant": variant,
        "seed": seed,
        "words": [*words],
        "epochs": epochs,
        "choose": True,
        "top1": None,
        "top1_val": top1,
        "top1_sparse": None,
        "flip_rate": flips,
        "config": config,
    }


ROWS = [
    row("flips_dense", 0.010),
    row("w24_ste", 0.0098, 61.0, 0),
    row("w24_2e-5", 0.0090, 60.5, 2e-5),
    row("w24_6e-5", 0.0070, 60.7, 6e-5),
    row("w24", 0.0050, 60.9, 2e-4),
]


def test_of_those_in_range_the_most_accurate_is_taken():
    lines = decay.table(ROWS, variants()).splitlines()
    words = [line.split("  ")[-1] for line in lines[:4]]
    assert words == ["too small a λ", "in range", "in range", "too large a λ"]
    assert lines[4] == "over dense: λ = 6e-05 (w24_6e-5, 60.70 %)"


def test_only_a_dense_run_of_the_same_seed_length_and_words_counts():
    for other in (
        row("w24", 0.009, value=2e-4, seed=1),
        row("w24", 0.009, value=2e-4, epochs=30),
        row("w24", 0.009, value=2e-4, words=["optimizer.lr=5e-4"]),
    ):
        words = "no run with a decay has a dense run beside it"
        assert decay.table([ROWS[0], other], variants()) == words
