"""squared_relu24_quantize and its gradient: the bits of the 16-bit ops, their rows narrowed."""

import pytest
import torch
from ops_checks import gaussian

from sparsetrain.ops import (
    narrow24,
    squared_relu24,
    squared_relu24_backward,
    squared_relu24_backward_quantize,
    squared_relu24_quantize,
)
from sparsetrain.ops.squared_relu24_quantize import ONE_MASK

E4M3 = torch.float8_e4m3fn


def assert_equal(got, expected):
    for one, other in zip(got, expected, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one.float(), other.float())


def test_a_row_by_hand():
    z = torch.tensor([[1.0, 2, -3, 0]]).repeat(4, 1)
    values, _, scales, values_t, meta_t = squared_relu24_quantize(z, "row", E4M3, True)
    assert values.float().tolist() == [[64, 256]] * 4  # 1 and 4, in sixty-fourths
    assert scales.tolist() == [[1 / 64]] * 4
    assert values_t[:2, :2].tolist() == [[1, 1], [4, 4]]
    assert meta_t.shape == (2, 1, 512)


@pytest.mark.parametrize("rule", ["row", "greedy", "transposable"])
def test_rows_are_those_of_16_bits_narrowed(rule):
    z = gaussian(70, 140, torch.bfloat16)
    values, meta, values_t, meta_t = squared_relu24(z, rule)
    got = squared_relu24_quantize(z, rule, E4M3, True)
    assert_equal(got, (*narrow24(values, meta, E4M3, True), values_t, meta_t))


@pytest.mark.parametrize("rule", ONE_MASK)
@pytest.mark.parametrize("rows", [67, 128])
def test_the_gradient_from_the_columns_is_that_from_the_rows(rule, rows):
    z, grad_h = gaussian(rows, 140, torch.bfloat16), gaussian(rows, 140, torch.bfloat16, seed=1)
    packed = squared_relu24(z, rule)
    values, values_t, sums = squared_relu24_backward(grad_h, *packed, rule)
    _, meta, _, h_t, meta_t = squared_relu24_quantize(z, rule, E4M3)
    got = squared_relu24_backward_quantize(grad_h, meta, h_t, meta_t, E4M3)
    values8, _, scales = narrow24(values, packed[1], E4M3)
    assert_equal(got[:3], (values8, scales, values_t))
    torch.testing.assert_close(got[3], sums, rtol=1e-5, atol=1e-5)


def test_what_does_not_fit_is_refused():
    z = gaussian(8, 16)
    _, meta, _, h_t, meta_t = squared_relu24_quantize(z, "transposable", E4M3)
    with pytest.raises(ValueError, match=r"^rule: 'best' is unknown"):
        squared_relu24_quantize(z, "best", E4M3)  # pyright: ignore
    with pytest.raises(ValueError, match=r"^meta: shape .* as squared_relu24_quantize makes it"):
        squared_relu24_backward_quantize(z, meta[:, :, :512], h_t, meta_t, E4M3)
    with pytest.raises(ValueError, match=r"^values_t: .*float32"):
        squared_relu24_backward_quantize(z.half(), meta, h_t, meta_t, E4M3)
