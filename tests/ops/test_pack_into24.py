"""pack_into24: a matrix under its mask, in the forms and the memory that are given."""

from typing import Any

import pytest
import torch
from ops_checks import gaussian

from sparsetrain.ops import (
    Forms24,
    apply24,
    empty_forms24,
    mask24,
    pack_into24,
    select24,
    sparsify24,
    unpack24,
)
from sparsetrain.reference.masks24 import pack_bits
from sparsetrain.reference.pack24 import nibbles24

RULES = ["transposable", "transposable_l2", "greedy"]
WANTED = [(1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1)]

wanted = pytest.mark.parametrize(("rows", "columns", "dense"), WANTED)


def test_one_tile():
    x = torch.tensor([[8.0, 10, 12, 4], [14, 16, 7, 15], [1, 9, 5, 11], [3, 2, 6, 13]])
    forms = empty_forms24(x, rows=True, columns=True, dense=True)
    got: Any = pack_into24(x, None, "transposable", *forms)
    values, meta, values_t, _, dense = got
    assert dense.tolist() == [[8, 0, 12, 0], [14, 16, 0, 0], [0, 9, 0, 11], [0, 0, 6, 13]]
    assert values.tolist() == [[8, 12], [14, 16], [9, 11], [6, 13]]
    assert nibbles24(meta, 4, 1)[:, 0].tolist() == [0 | 2 << 2, 0 | 1 << 2, 1 | 3 << 2, 2 | 3 << 2]
    assert values_t[:, :2].tolist() == [[8, 14], [16, 9], [12, 6], [11, 13]]
    assert values_t[:, 2:].count_nonzero() == 0


@wanted
@pytest.mark.parametrize("rule", [None, *RULES])
@pytest.mark.parametrize("shape", [(8, 16), (5, 12), (130, 72), (0, 8), (4, 0)])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_every_form_is_that_of_sparsify24_apply24_and_mask24(
    shape, dtype, rule, rows, columns, dense
):
    x = gaussian(*shape)
    mask = select24(gaussian(*shape, seed=1), "greedy")
    if rule is None:
        expected = (*apply24(x, mask, dtype), mask24(x, mask, dtype=dtype))
    else:
        *packed, chosen, _ = sparsify24(x, rule, dtype)
        expected = (*packed, mask24(x, chosen, dtype=dtype))
    forms = empty_forms24(x, dtype, rows=bool(rows), columns=bool(columns), dense=bool(dense))
    given = None if rule else mask
    got = pack_into24(x, given, rule or "transposable", *forms)
    there = (rows, rows, columns, columns, dense)
    assert [form is not None for form in got] == [bool(one) for one in there]
    for one, form, other in zip(got, forms, expected, strict=True):
        assert one is form
        if one is not None:
            assert torch.equal(one, other)


def test_the_packed_forms_and_the_dense_one_are_one_matrix():
    x = gaussian(6, 20)
    forms = empty_forms24(x, rows=True, columns=True, dense=True)
    got: Any = pack_into24(x, None, "transposable", *forms)
    values, meta, values_t, meta_t, dense = got
    assert torch.equal(unpack24(values, meta), dense)
    assert torch.equal(unpack24(values_t, meta_t)[:, :6], dense.T)


def test_the_mask_is_chosen_before_the_values_are_rounded():
    fine = torch.tensor([[1.0, 1.001, 1.002, 1.003]]).repeat(4, 1)  # all are 1 in bfloat16
    fine[2:] = fine[2:].flip(1)
    dense = torch.empty(4, 4, dtype=torch.bfloat16)
    pack_into24(fine, None, "transposable", dense=dense)
    assert torch.equal(dense, mask24(fine, select24(fine, "transposable")).bfloat16())
    rounded = dense.clone()
    pack_into24(fine.bfloat16(), None, "transposable", dense=rounded)
    assert not torch.equal(dense, rounded)


def test_nothing_is_written_where_nothing_is_given():
    assert pack_into24(gaussian(4, 8), None, "greedy") == Forms24()


# What it refuses.


@pytest.mark.parametrize(
    ("rule", "words"),
    [("row", "rule: 'row' gives each orientation.* use tr"), ("best", "rule: 'best' is unknown")],
)
def test_a_rule_that_gives_no_one_mask_is_refused_by_function_and_op(rule, words):
    x = torch.ones(4, 8)
    forms = empty_forms24(x, columns=True)
    for call in (pack_into24, torch.ops.sparsetrain.pack_into24):
        with pytest.raises(ValueError, match=words):
            call(x, None, rule, *forms)


def test_a_mask_of_rows_alone_is_enough_for_rows_and_dense():
    x = gaussian(130, 72)
    mask = select24(x, "row")
    forms = empty_forms24(x, torch.bfloat16, rows=True, dense=True)
    got: Any = pack_into24(x, mask, "transposable", *forms)
    expected = mask24(x, mask, dtype=torch.bfloat16)
    assert torch.equal(got.dense, expected)
    assert torch.equal(unpack24(got.values, got.meta), expected)
    again = empty_forms24(x, torch.bfloat16, rows=True, dense=True)
    chosen: Any = pack_into24(x, None, "row", *again)
    assert chosen.values.equal(got.values)
    assert chosen.meta.equal(got.meta)
    assert chosen.dense.equal(expected)
    with pytest.raises(ValueError, match="keeps more than two"):
        pack_into24(x, mask, "transposable", *empty_forms24(x, columns=True))


def test_a_row_that_keeps_three_is_refused_where_there_is_no_kernel():
    mask = pack_bits(torch.tensor([[True, True, True, False]]))
    x = torch.ones(1, 4)
    with pytest.raises(ValueError, match="keeps more than two"):
        pack_into24(x, mask, "transposable", *empty_forms24(x, rows=True))


@pytest.mark.parametrize("name", Forms24._fields)
def test_a_place_that_does_not_fit_is_refused_by_its_name(name):
    x = gaussian(136, 80)
    forms = empty_forms24(x, rows=True, columns=True, dense=True)
    place = getattr(forms, name)
    strided = place.transpose(0, 1).contiguous().transpose(0, 1)
    for wrong, words in ((place[1:], "shape"), (place.short(), "int16"), (strided, "strides")):
        with pytest.raises(ValueError, match=rf"^{name}: .*{words}"):
            pack_into24(x, None, "greedy", *forms._replace(**{name: wrong}))


@pytest.mark.parametrize("name", ["values", "meta", "values_t", "meta_t"])
def test_values_come_with_their_metadata(name):
    x = gaussian(8, 16)
    forms = empty_forms24(x, rows=True, columns=True)._replace(**{name: None})
    meta = "meta_t" if name.endswith("_t") else "meta"
    with pytest.raises(ValueError, match=f"^{meta}: values without metadata, or the reverse"):
        pack_into24(x, None, "greedy", *forms)


def test_forms_of_two_dtypes_are_refused():
    x = gaussian(8, 16)
    forms = empty_forms24(x, rows=True)._replace(dense=x.bfloat16())
    with pytest.raises(ValueError, match=r"^dense: torch.bfloat16, but another form is torch.flo"):
        pack_into24(x, None, "greedy", *forms)
