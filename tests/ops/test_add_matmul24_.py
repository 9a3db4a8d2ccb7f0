"""add_matmul24_: a sparse product added in place. Its accuracy is tested with that of matmul24."""

import pytest
import torch
from matmul_checks import devices
from ops_checks import gaussian, within_nan

from sparsetrain.ops import add_matmul24_, matmul24, pack24, select24, sparsify24


def packed(rows, columns, dtype=torch.float32):
    x = gaussian(rows, columns, dtype)
    return pack24(x, select24(x, "row"))


def test_a_product_added_by_hand():
    a = pack24(torch.tensor([[0.0, 2, 0, 3]]), torch.tensor([[0b1010]]).byte())
    b = torch.tensor([[100.0, 1], [10, 2], [100, 3], [1, 4]])
    out = torch.tensor([[1000.0, 2000]])
    assert add_matmul24_(out, *a, b) is out
    assert out.tolist() == [[1023, 2016]]
    out = out.T.contiguous()
    add_matmul24_(out, *a, b, transpose_out=True)
    assert out.tolist() == [[1046], [2032]]


@devices
def test_the_sum_is_rounded_once(device):
    x = torch.tensor([[2.0**-8, 2.0**-17, 0, 0]]).bfloat16().to(device)
    a, b = pack24(x, select24(x, "row")), torch.ones(4, 1).to(x)
    out = torch.ones(1, 1).to(x)
    assert add_matmul24_(out, *a, b).item() == 1 + 2.0**-7  # rounded before, 1
    wide = torch.ones(1, 1, device=device)
    assert add_matmul24_(wide, *a, b).item() == 1 + 2.0**-8 + 2.0**-17


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_many_small_gradients_accumulate_in_a_wide_buffer(dtype):
    values, meta = packed(6, 8, dtype)
    b = gaussian(8, 4, dtype, seed=1)
    wide = torch.promote_types(dtype, torch.float32)
    once = matmul24(values, meta, b, None, True, wide if wide != dtype else None)
    out = torch.zeros(4, 6, dtype=wide)
    for _ in range(64):
        add_matmul24_(out, values, meta, b, True)
    torch.testing.assert_close(out, 64 * once, rtol=1e-5, atol=1e-5)


def test_strides_of_b_do_not_matter():
    values, meta = packed(5, 12)
    b = gaussian(12, 7, seed=1)
    got, expected = torch.ones(5, 7), torch.ones(5, 7)
    add_matmul24_(got, values, meta, within_nan(b))
    torch.testing.assert_close(got, add_matmul24_(expected, values, meta, b))


@pytest.mark.parametrize("transpose_out", [False, True])
def test_an_empty_contraction_adds_nothing(transpose_out):
    _, _, values_t, meta_t, _, _ = sparsify24(torch.zeros(0, 8))
    out = gaussian(3, 8) if transpose_out else gaussian(8, 3)
    before = out.clone()
    add_matmul24_(out, values_t, meta_t, torch.zeros(0, 3), transpose_out)
    assert torch.equal(out, before)


def test_it_compiles_to_the_same_result():
    (values, meta), b = packed(6, 8), gaussian(8, 4, seed=1)
    torch.compiler.reset()
    compiled = torch.compile(add_matmul24_, fullgraph=True, backend="aot_eager")
    got, expected = torch.ones(6, 4), torch.ones(6, 4)
    compiled(got, values, meta, b)
    assert torch.equal(got, add_matmul24_(expected, values, meta, b))
    assert not torch.equal(got, torch.ones(6, 4))


@pytest.mark.parametrize(
    ("out", "transpose_out", "complaint"),
    [
        (torch.ones(3, 4), False, r"out: shape \(3, 4\) should be \(4, 3\)"),
        (torch.ones(4, 3), True, r"out: shape \(4, 3\) should be \(3, 4\)"),
        (torch.ones(12), False, r"out: expected 2 dimensions, got shape \(12,\)"),
        (torch.ones(4, 3).half(), False, r"out: torch\.float16, but values is torch\.bfloat16"),
        (torch.ones(4, 3).double(), False, r"out: torch\.float64, .*or make out torch\.float32"),
        (torch.ones(3, 4).T, False, r"out: strides \(1, 4\) are not contiguous; .*out\.T"),
        (torch.ones(4, 6)[:, ::2], False, r"out: strides \(6, 2\) are not contiguous"),
        (torch.ones(4, 1).expand(4, 3), False, r"out: strides \(1, 0\) are not contiguous"),
    ],
)
def test_an_out_that_does_not_fit_is_refused(out, transpose_out, complaint):
    given = out, *packed(4, 8, torch.bfloat16), torch.ones(8, 3).bfloat16(), transpose_out
    for call in (add_matmul24_, torch.ops.sparsetrain.add_matmul24_):
        with pytest.raises(ValueError, match=complaint):
            call(*given)


def test_an_out_on_another_device_is_refused():
    out = torch.ones(4, 3, device="meta")
    with pytest.raises(ValueError, match="out: on meta, but values is on cpu"):
        add_matmul24_(out, *packed(4, 8), torch.ones(8, 3))


def test_a_16_bit_sum_of_float32_operands_is_refused():
    with pytest.raises(ValueError, match=r"out: torch\.bfloat16, but values is torch\.float32"):
        add_matmul24_(torch.ones(4, 3).bfloat16(), *packed(4, 8), torch.ones(8, 3))


def test_a_b_that_does_not_fit_is_refused():
    for call in (add_matmul24_, torch.ops.sparsetrain.add_matmul24_):
        with pytest.raises(ValueError, match="b: 9 rows do not fit"):
            call(torch.ones(4, 3), *packed(4, 8), torch.ones(9, 3))
