"""The layouts of PyTorch's own 2:4 kernels, byte for byte, and their products."""

import pytest
import torch
from ops_checks import gaussian

from sparsetrain.export.layouts24 import (
    from_aten_cusparselt,
    from_aten_cutlass,
    to_aten_cusparselt,
    to_aten_cutlass,
    to_cusparselt_sm90,
)
from sparsetrain.reference.masks24 import mask_greedy24, mask_row24, mask_transposable24
from sparsetrain.reference.pack24 import nibbles24, pack_rows24

pytestmark = pytest.mark.gpu

SIZES = [(128, 128), (256, 640), (384, 256)]
GREEDY = "largest_abs_values_greedy"


def planted(rows, columns, dtype):
    """Give a matrix on whose tiles greedy keeps eight, and the mask: it is large there."""
    mask = mask_transposable24(gaussian(rows, columns))
    x = gaussian(rows, columns, seed=1)
    return (x.clamp(-1, 1) + torch.where(mask, 4 * x.sign(), 0)).to(dtype), mask


def bits(x):
    return x.contiguous().cpu().flatten().view(torch.uint8)


def pack_for_cusparselt(values, meta):
    """Pack in the layout that cuSPARSELt has on this GPU, or skip."""
    if not torch.backends.cusparselt.is_available():
        pytest.skip("PyTorch is built without cuSPARSELt")
    major, minor = torch.cuda.get_device_capability()
    if major not in (8, 9):
        pytest.skip(f"cuSPARSELt's layout on compute capability {major}.{minor} is not known")
    return (to_aten_cusparselt if major == 8 else to_cusparselt_sm90)(values, meta)


def need_capability_8():
    if torch.cuda.get_device_capability()[0] != 8:
        pytest.skip("PyTorch's CUTLASS 2:4 products refuse other GPUs than compute capability 8.x")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_the_tile_kernel_writes_our_bytes_for_cutlass(rows, columns, dtype):
    x, mask = planted(rows, columns, dtype)
    got = torch.ops.aten._sparse_semi_structured_tile(x.cuda(), GREEDY, use_cutlass=True)
    for (values, meta), packed, torch_meta in (
        (pack_rows24(x, mask), got[0], got[1]),
        (pack_rows24(x.T, mask.T), got[2], got[3]),
    ):
        assert torch.equal(bits(packed), bits(values))
        memory = torch_meta.permute(2, 0, 1).reshape(values.shape[0], -1)
        size = values.shape[0], 2 * values.shape[1]
        assert torch.equal(memory.cpu(), to_aten_cutlass(meta, *size))
        assert torch.equal(from_aten_cutlass(torch_meta, *size).cpu(), meta)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_the_tile_kernel_writes_our_bytes_for_cusparselt(rows, columns, dtype):
    x, mask = planted(rows, columns, dtype)
    got = torch.ops.aten._sparse_semi_structured_tile(x.cuda(), GREEDY, use_cutlass=False)
    assert torch.equal(bits(got[0]), bits(to_aten_cusparselt(*pack_rows24(x, mask))))
    assert torch.equal(bits(got[2]), bits(to_aten_cusparselt(*pack_rows24(x.T, mask.T))))


def test_the_greedy_rule_is_the_tile_kernels_wherever_two_are_kept():
    tiles = torch.rand(32 * 64, 16, generator=torch.Generator().manual_seed(0))
    distinct = (tiles.argsort(dim=1) + 1.0) * torch.where(tiles < 0.5, -1, 1)
    x = distinct.reshape(32, 64, 4, 4).transpose(1, 2).reshape(128, 256).bfloat16()
    mask = mask_greedy24(x)
    values, meta = pack_rows24(x, mask)
    got = torch.ops.aten._sparse_semi_structured_tile(x.cuda(), GREEDY, use_cutlass=False)[0]
    got_values, got_meta = from_aten_cusparselt(got.cpu(), 128, 256)
    full = mask.reshape(128, 64, 4).sum(dim=-1) == 2
    assert full.float().mean() > 0.8
    nibbles, got_nibbles = (nibbles24(m, 128, 64) for m in (meta, got_meta))
    assert torch.equal(got_nibbles[full], nibbles[full])
    kept, got_kept = (v.reshape(128, 64, 2)[full] for v in (values, got_values))
    assert torch.equal(got_kept, kept)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_cusparselt_compresses_to_our_bytes(rows, columns, dtype):
    x = gaussian(rows, columns, dtype)
    x[x == 0] = 1
    mask = mask_row24(x)
    packed = pack_for_cusparselt(*pack_rows24(x, mask))
    compressed = torch.ops.aten._cslt_compress(torch.where(mask, x, 0).cuda())
    assert compressed.shape == packed.shape
    assert torch.equal(bits(compressed), bits(packed))


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_cusparselt_compresses_8_bit_values_to_our_bytes(rows, columns, dtype):
    if torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("the layout of 8-bit values is known for compute capability 9 only")
    x = gaussian(rows, columns).mul(20).round().clamp(-100, 100)
    x[x == 0] = 1
    mask = mask_row24(x)
    packed = pack_for_cusparselt(*pack_rows24(x.to(dtype), mask))
    compressed = torch.ops.aten._cslt_compress((x * mask).to(dtype).cuda())
    assert torch.equal(bits(compressed), bits(packed))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_cusparselt_multiplies_what_we_pack(rows, columns, dtype):
    x = gaussian(rows, columns).mul(2).round().to(dtype)
    dense = gaussian(columns, 128, seed=1).mul(2).round().to(dtype)
    mask = mask_row24(x)
    packed = pack_for_cusparselt(*pack_rows24(x, mask)).cuda()
    # Sums of small whole numbers are exact, so both round once.
    expected = ((x * mask).double() @ dense.double()).to(dtype)
    assert torch.equal(torch.ops.aten._cslt_sparse_mm(packed, dense.cuda()).cpu(), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_aten_cutlass_multiplies_what_we_pack(rows, columns, dtype):
    need_capability_8()
    x = gaussian(rows, columns).mul(2).round().to(dtype)
    dense = gaussian(columns, 128, seed=1).mul(2).round().to(dtype)
    mask = mask_row24(x)
    values, meta = pack_rows24(x, mask)
    got = torch.ops.aten._sparse_semi_structured_mm(
        values.cuda(), to_aten_cutlass(meta, rows, columns).cuda(), dense.cuda()
    )
    expected = ((x * mask).double() @ dense.double()).to(dtype)
    assert torch.equal(got.cpu(), expected)
