"""apply24_dense: one orientation packed, and the matrix under its mask."""

import pytest
import torch
from ops_checks import gaussian

from sparsetrain.ops import apply24, apply24_dense, mask24, select24, unpack24
from sparsetrain.reference.masks24 import pack_bits


@pytest.mark.parametrize("shape", [(8, 16), (5, 12), (130, 72)])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_it_is_one_half_of_apply24_and_mask24(shape, dtype):
    x = gaussian(*shape)
    mask = select24(x, "transposable")
    packed = apply24(x, mask, dtype)
    for transposed in (False, True):
        values, meta, dense = apply24_dense(x, mask, transposed, dtype)
        half = packed[2:] if transposed else packed[:2]
        assert torch.equal(values, half[0])
        assert torch.equal(meta, half[1])
        assert torch.equal(dense, mask24(x, mask, dtype=dtype))


def test_the_packed_half_and_the_dense_one_are_one_matrix():
    x = gaussian(6, 20)
    mask = select24(x, "transposable")
    values, meta, dense = apply24_dense(x, mask)
    assert torch.equal(unpack24(values, meta), dense)
    values_t, meta_t, dense = apply24_dense(x, mask, transposed=True)
    assert torch.equal(unpack24(values_t, meta_t)[:, :6], dense.T)


def test_a_row_that_keeps_three_is_refused_where_there_is_no_kernel():
    mask = pack_bits(torch.tensor([[True, True, True, False]]))
    with pytest.raises(ValueError, match="keeps more than two"):
        apply24_dense(torch.ones(1, 4), mask)
