"""pack24 and unpack24: the dense matrix comes back."""

import pytest
import torch
from ops_checks import gaussian

from sparsetrain.ops import mask24, pack24, select24, unpack24
from sparsetrain.select import RULES

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def test_one_group():
    values, meta = pack24(torch.tensor([[1.0, 5, 3, 2]]), torch.tensor([[0b0110]]).byte())
    assert values.tolist() == [[5, 3]]
    assert meta.shape == (1, 1, 512)
    assert meta[0, 0, 0] == 1 | 2 << 2
    assert meta[0, 0, 1:].count_nonzero() == 0


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_unpacking_gives_back_what_was_kept(rule, dtype):
    x = gaussian(9, 20, dtype)
    mask = select24(x, rule)
    assert torch.equal(unpack24(*pack24(x, mask)), mask24(x, mask))


def test_the_metadata_does_not_depend_on_the_values():
    x = gaussian(8, 16)
    mask = select24(x, "row")
    assert torch.equal(pack24(x, mask)[1], pack24(torch.zeros(8, 16), mask)[1])


def test_a_crowded_group_is_refused():
    with pytest.raises(ValueError, match=r"mask: keeps more than two of row 0, columns 4 to 7"):
        pack24(torch.ones(1, 8), torch.tensor([[0b0111_0011]]).byte())


@pytest.mark.parametrize(
    ("mask", "complaint"),
    [
        (torch.zeros(4, 2).byte(), r"mask: shape \(4, 2\) should be \(4, 1\)"),
        (torch.zeros(3, 1).byte(), r"mask: shape \(3, 1\) should be \(4, 1\)"),
        (torch.zeros(4, 1).bool(), r"mask: torch.bool should be uint8"),
        (torch.zeros(4, 1, device="meta").byte(), r"mask: on meta, but x is on cpu"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(mask, complaint):
    with pytest.raises(ValueError, match=complaint):
        pack24(torch.ones(4, 8), mask)


def test_values_that_are_not_pairs_are_refused():
    with pytest.raises(ValueError, match="values: 3 columns are not two per group"):
        unpack24(torch.ones(4, 3), torch.zeros(1, 1, 512).byte())


def test_metadata_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"meta: shape \(1, 1, 512\) should be \(1, 2, 512\)"):
        unpack24(torch.ones(65, 4), torch.zeros(1, 1, 512).byte())
