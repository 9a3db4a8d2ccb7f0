"""Configs and words as format 1 stored them."""

import pytest
import yaml
from hydra.utils import instantiate

import sparsetrain as st
from sparsetrain.upgrade import upgraded_data, upgraded_sparsity, upgraded_words

ALL24 = """
_target_: sparsetrain.Sparsity
include: ["*mlp*"]
exclude: []
weight: {_target_: sparsetrain.SRSTE, rule: transposable, mvue: false, decay: 2.0e-4}
activation: {_target_: sparsetrain.Activation24, rule: row}
schedule: {_target_: sparsetrain.Schedule, dense_warmup: 0.05, mask_every: 40}
"""
S_STE = """
_target_: sparsetrain.Sparsity
weight: {_target_: sparsetrain.SSTE, mvue: true}
activation: null
"""


def read(text, **changed):
    return instantiate(upgraded_sparsity({**yaml.safe_load(text), **changed}), _convert_="all")


def test_both_rules_become_selections():
    assert read(ALL24) == st.Sparsity(
        include=("*mlp*",),
        weight=st.SRSTE(decay=2e-4),
        selection=st.Selection("exact"),
        activation=st.Activation24(st.Selection("row")),
        schedule=st.Schedule(dense_warmup=0.05, mask_every=40),
    )


@pytest.mark.parametrize(
    ("rule", "selection"),
    [
        ("transposable", st.Selection("exact")),
        ("transposable_l2", st.Selection("exact", "squared")),
        ("row", st.Selection("row")),
        ("greedy", st.Selection("greedy")),
    ],
)
def test_every_rule_of_a_weight_is_the_selection_that_it_was(rule, selection):
    weight = {"_target_": "sparsetrain.STE", "rule": rule, "mvue": True}
    assert read(S_STE, weight=weight) == st.Sparsity(weight=st.STE(mvue=True), selection=selection)


def test_an_unknown_rule_is_named():
    with pytest.raises(ValueError, match="rule='rwo': choose one of transposable"):
        read(S_STE, weight={"_target_": "sparsetrain.STE", "rule": "rwo"})


def test_what_is_of_today_stays_as_it_is_and_nothing_given_is_changed():
    assert read(S_STE) == st.Sparsity(weight=st.SSTE())
    old = yaml.safe_load(ALL24)
    new = upgraded_sparsity(old)
    assert old == yaml.safe_load(ALL24)
    assert upgraded_sparsity(new) == new


def test_the_held_out_part_of_an_old_config_has_todays_name():
    assert upgraded_data({"root": "/x", "val_split": 0.1}) == {"root": "/x", "val_fraction": 0.1}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("sparsity.weight.rule=row", ("sparsity.selection.solver=row",)),
        ("+sparsity.weight.rule=transposable", ("sparsity.selection.solver=exact",)),
        (
            "sparsity.activation.rule=transposable_l2",
            (
                "sparsity.activation.selection.solver=exact",
                "sparsity.activation.selection.score=squared",
            ),
        ),
        ("sparsity.weight.rule=rwo", ("sparsity.weight.rule=rwo",)),
        ("data.val_split=0.1", ("data.val_fraction=0.1",)),
        ("sparsity.weight.decay=1e-4", ("sparsity.weight.decay=1e-4",)),
    ],
)
def test_a_word_is_written_as_today(old, new):
    assert upgraded_words(old) == new
