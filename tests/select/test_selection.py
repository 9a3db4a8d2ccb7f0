"""Selection: its words, the rule of the ops that it is, and what it refuses."""

from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch

from sparsetrain.patterns import NM
from sparsetrain.reference.masks24 import select_mask24
from sparsetrain.select import EXACT, GREEDY, ROW, RULES, SQUARED, Selection

WORDS = {
    "transposable": (EXACT, "exact"),
    "transposable_l2": (SQUARED, "exact squared"),
    "row": (ROW, "row"),
    "greedy": (GREEDY, "greedy"),
}


def test_every_rule_of_the_ops_is_one_selection():
    assert list(WORDS) == list(RULES)
    for rule, (selection, words) in WORDS.items():
        assert selection.rule == rule
        assert Selection.of_rule(rule) == selection  # pyright: ignore
        assert str(selection) == words
    assert Selection() == EXACT == Selection("exact", "magnitude")
    assert len({selection for selection, _ in WORDS.values()}) == 4, "hashable, and all differ"


def test_one_mask_serves_both_orientations_where_it_says_so():
    x = torch.randn(16, 32, generator=torch.Generator().manual_seed(0))
    for selection, _ in WORDS.values():
        kept = select_mask24(x, selection.rule)
        assert NM(2, 4).holds(kept)
        assert NM(2, 4).holds(kept.T) == selection.both


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"solver": "best"}, "solver='best': choose one of exact, row, greedy"),
        ({"score": "sum"}, "score='sum': choose one of magnitude, squared"),
        ({"solver": None}, "solver=None: choose one of exact"),
        ({"solver": "row", "score": "squared"}, "score='squared' with solver='row': .*'magnitude'"),
        ({"solver": "greedy", "score": "squared"}, "score='squared' with solver='greedy'"),
    ],
)
def test_other_words_are_refused_with_those_it_knows(words: dict[str, Any], message):
    with pytest.raises(ValueError, match=message):
        Selection(**words)


def test_an_unknown_rule_is_refused_with_those_it_knows():
    known = "transposable, transposable_l2, row, greedy"
    with pytest.raises(ValueError, match=f"rule='best': choose one of {known}"):
        Selection.of_rule("best")  # pyright: ignore


def test_a_selection_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        ROW.solver = "exact"  # pyright: ignore
