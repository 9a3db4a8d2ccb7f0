"""A saved state that no training can have written is refused, and the layer named."""

import copy
from typing import Any

import pytest
import torch
from nn_checks import seeded, selections
from torch import nn

from sparsetrain import SSTE, STE, Sparsity, load_sparse_state, sparse_state, sparsify, update_masks
from sparsetrain.methods import SRSTE, WeightMethod
from sparsetrain.reference.masks24 import pack_bits, unpack_bits
from sparsetrain.select import EXACT, ROW, Selection


def net(
    method: WeightMethod | None = None,
    selection: Selection = EXACT,
    features: int = 12,
    out: int = 8,
) -> Any:
    """Rows of 12 bits end in half a byte."""
    model = seeded(nn.Sequential(nn.Linear(features, out)))
    sparsify(model, Sparsity(weight=method or STE(), selection=selection))
    return model


def saved(method: WeightMethod | None = None, selection: Selection = EXACT) -> tuple[Any, dict]:
    model = net(method, selection)
    update_masks(model)
    return model, copy.deepcopy(sparse_state(model))


def flip(mask, row, column):
    bits = unpack_bits(mask, 12)
    bits[row, column] = ~bits[row, column]
    return pack_bits(bits)


def swap_in_row(mask):
    """Move a kept value within its four of a row: rows stay 2:4, columns do not."""
    bits = unpack_bits(mask, 12)
    kept, free = bits[0, :4].nonzero()[0], (~bits[0, :4]).nonzero()[0]
    bits[0, kept], bits[0, free] = False, True
    return pack_bits(bits)


def with_padding(mask):
    mask = mask.clone()
    mask[3, 1] |= 0b10000000
    return mask


MASKS = {
    "all kept": lambda mask: torch.full_like(mask, 255),
    "nothing kept": torch.zeros_like,
    "one more kept or fewer": lambda mask: flip(mask, 7, 11),
    "columns broken": swap_in_row,
    "bits behind the last column": with_padding,
    "another dtype": lambda mask: mask.to(torch.int8),
    "as bools": lambda mask: unpack_bits(mask, 12),
    "another shape": lambda mask: mask[:4],
    "transposed": lambda mask: mask.T,
    "flat": torch.flatten,
    "sparse": lambda mask: mask.to_sparse(),
    "on meta": lambda mask: mask.to("meta"),
    "no tensor": lambda mask: mask.tolist(),
}


@pytest.mark.parametrize("break_", MASKS.values(), ids=MASKS)
def test_a_mask_that_cannot_be_chosen_is_refused_and_nothing_is_loaded(break_):
    model, state = saved()
    before = model[0].mask.clone()
    state["0"]["mask"] = break_(state["0"]["mask"])
    state["0"]["phase"] = "dense_warmup"
    with pytest.raises(ValueError, match=r"^0: its saved mask .*: use the sparsity"):
        load_sparse_state(model, state)
    assert torch.equal(model[0].mask, before)
    assert model[0].sparse


@selections
@pytest.mark.parametrize(("features", "out"), [(12, 8), (8, 8), (4, 4), (20, 12)])
def test_what_is_chosen_is_loaded_again(selection, features, out):
    model = net(None, selection, features, out)
    with torch.no_grad():
        model[0].weight[0, :4] = 0.0
        model[0].weight[0, 0] = float("nan")
    update_masks(model)
    other = net(None, selection, features, out)
    load_sparse_state(other, sparse_state(model))
    assert torch.equal(other[0].mask, model[0].mask)


def test_a_row_mask_is_loaded_for_rows_and_refused_for_tiles():
    model, state = saved(selection=ROW)
    load_sparse_state(model, state)
    with pytest.raises(ValueError, match=r"0: its saved mask does not keep .* along columns"):
        load_sparse_state(saved(SRSTE())[0], state)


BETAS = {
    "nan": torch.tensor([float("nan")]),
    "infinite": torch.tensor([float("inf")]),
    "zero": torch.tensor([0.0]),
    "negative": torch.tensor([-1.0]),
    "a scalar": torch.tensor(1.0),
    "two": torch.tensor([1.0, 1.0]),
    "double": torch.tensor([1.0], dtype=torch.float64),
    "a number": 1.0,
    "absent": None,
}


@pytest.mark.parametrize("beta", BETAS.values(), ids=BETAS)
def test_a_beta_that_is_not_one_positive_number_is_refused(beta):
    model, state = saved(SSTE())
    load_sparse_state(model, state)
    state["0"]["scale"] = beta
    with pytest.raises(ValueError, match=r"^0: β of S-STE is saved as"):
        load_sparse_state(model, state)


def test_the_state_of_another_method_is_refused():
    (ste, of_ste), (sste, of_sste) = saved(selection=ROW), saved(SSTE())
    with pytest.raises(ValueError, match="0: its saved state has β, which only S-STE has"):
        load_sparse_state(ste, of_sste)
    with pytest.raises(ValueError, match="0: β of S-STE is saved as None"):
        load_sparse_state(sste, of_ste)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda state: state["0"].update(frozen=1), "0: frozen=1 is no bool"),
        (lambda state: state["0"].update(phase="warm"), "0: phase='warm' is none there is"),
        (lambda state: state["0"].update(engine="native"), "0: its saved state has .*'engine'"),
        (lambda state: state["0"].pop("scale"), "0: its saved state has .*'mask', 'masks_step'"),
        (lambda state: state.update({"0": None}), "0: its saved state has None"),
        (lambda state: state.update({"1": {}}), "sparse layers are not the model's"),
    ],
)
def test_a_state_of_another_form_is_refused(change, match):
    model, state = saved(STE())
    change(state)
    with pytest.raises(ValueError, match=match):
        load_sparse_state(model, state)
