"""add_mask24_: a masked matrix added in place."""

import pytest
import torch
from ops_checks import gaussian, within_nan

from sparsetrain.ops import add_mask24_, mask24, select24

INF, NAN = float("inf"), float("nan")


def test_one_row():
    out, x = torch.tensor([[10.0, 10, 10, 10]]), torch.tensor([[1.0, 2, 3, 4]])
    mask = torch.tensor([[0b0101]]).byte()
    assert add_mask24_(out, x, mask, 0.0, 0.5) is out
    assert out.tolist() == [[10, 11, 10, 12]]
    add_mask24_(out, x, mask, 1.0, 0.0, torch.tensor([2.0]))
    assert out.tolist() == [[12, 11, 16, 12]]


def test_a_factor_of_zero_adds_nothing_even_of_nan_and_infinity():
    out = torch.ones(1, 4)
    add_mask24_(out, torch.tensor([[NAN, INF, -INF, 1.0]]), torch.tensor([[15]]).byte(), 0.0, 1.0)
    assert torch.equal(out, torch.ones(1, 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_it_rounds_once(dtype):
    out, x = gaussian(6, 12, dtype), gaussian(6, 12, dtype, seed=1)
    mask = select24(x, "row")
    wide = torch.promote_types(dtype, torch.float32)
    expected = (out.to(wide) + 3 * mask24(x.to(wide), mask, 0.25, 0.3)).to(dtype)
    add_mask24_(out, x, mask, 0.25, 0.3, torch.tensor(3.0))
    assert torch.equal(out, expected)


def test_strides_do_not_matter_and_the_surroundings_of_a_view_stay():
    x = gaussian(5, 8)
    mask = select24(x, "row")
    surroundings = torch.full((9, 20), 7.0)
    view = surroundings[2:7, 3:19:2]
    view.zero_()
    add_mask24_(view, within_nan(x), mask, 0.0, 2.0)
    assert torch.equal(view, mask24(x, mask, 0.0, 2.0))
    view.fill_(7.0)
    assert (surroundings == 7).all()


def test_it_compiles_to_the_same_result():
    x, mask = gaussian(4, 16), select24(gaussian(4, 16), "row")
    compiled = torch.compile(add_mask24_, fullgraph=True, backend="aot_eager")
    got, expected = torch.ones(4, 16), torch.ones(4, 16)
    compiled(got, x, mask)
    assert torch.equal(got, add_mask24_(expected, x, mask))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.ones(4, 12)}, r"x: shape \(4, 12\) should be \(4, 8\)"),
        ({"x": torch.ones(4, 8).double()}, "x: torch.float64, but out is torch.float32"),
        ({"mask": torch.zeros(4, 2).byte()}, r"mask: shape \(4, 2\) should be \(4, 1\)"),
        ({"scale": torch.ones(2)}, "scale: .*one element"),
        ({"out": torch.ones(1, 8).expand(4, 8)}, "out: an expanded tensor"),
        ({"out": torch.ones(4, 1).expand(4, 8)}, "out: an expanded tensor"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    arguments = {"out": torch.ones(4, 8), "x": torch.ones(4, 8), "mask": torch.zeros(4, 1).byte()}
    with pytest.raises(ValueError, match=message):
        add_mask24_(**{**arguments, **change})
