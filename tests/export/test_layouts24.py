"""The layouts of other products, against what their own code says of them."""

from itertools import product

import pytest
import torch
from ops_checks import gaussian
from torch.sparse import _semi_structured_conversions as aten

from sparsetrain.export.layouts24 import (
    from_aten_cusparselt,
    from_aten_cutlass,
    from_cusparselt_sm90,
    from_sm90_8bit,
    from_sm90_16bit,
    to_aten_cusparselt,
    to_aten_cutlass,
    to_cusparselt_sm90,
    to_sm90_8bit,
    to_sm90_16bit,
)
from sparsetrain.reference.masks24 import mask_row24
from sparsetrain.reference.nibbles24 import read_nibbles, write_nibbles
from sparsetrain.reference.pack24 import (
    META_ORDER,
    META_ORDER_8BIT,
    meta_order24,
    meta_shape24,
    nibbles24,
    pack_rows24,
)

SIZES = [(64, 128), (128, 256), (192, 384)]

# What CuTe prints for `Sm90GemmSparseConfig<...>::fill_layoutE` (CUTLASS 4.2.0) on a problem of
# M x K: (row shape, row strides, column shape, column strides), in logical values, eight a byte.
# The last row mode counts atoms down (its shape is M / 64), the last column mode counts them
# across (its shape is K / atom, its stride the atom's columns times M).
CUTE_LAYOUTS = {
    ("16bit", 32): ((8, 2, 4), (32, 16, 512, 2048), (16, 2, 1), (1, 256, 0)),
    ("16bit", 64): ((8, 2, 4), (64, 16, 1024, 4096), (16, 2, 2), (1, 512, 32)),
    ("16bit", 128): ((8, 2, 4), (128, 16, 2048, 8192), (16, 2, 4), (1, 1024, 32)),
    ("8bit", 64): ((64,), (64, 4096), (64,), (1,)),
    ("8bit", 128): ((64,), (128, 8192), (128,), (1,)),
}
ORDERS = {"16bit": META_ORDER, "8bit": META_ORDER_8BIT}
PACK = {"16bit": to_sm90_16bit, "8bit": to_sm90_8bit}
UNPACK = {"16bit": from_sm90_16bit, "8bit": from_sm90_8bit}


def offset(index, shape, strides):
    """Give the offset of an index in a CuTe mode; the last stride takes what is left."""
    total = 0
    for size, stride in zip(shape, strides, strict=False):
        total += index % size * stride
        index //= size
    return total + index * strides[-1]


def bytes_by_row(meta, rows, columns, order):
    """Give the metadata of a matrix row by row, uint8 [R, ceil(C/8)], two groups a byte."""
    return write_nibbles(nibbles24(meta, rows, columns // 4, order), "R G g0").reshape(rows, -1)


def sm90_by_hand(meta, rows, columns, width, atom_k):
    """Scatter the bytes of metadata by the layout that CuTe prints."""
    row_shape, row_strides, column_shape, column_strides = CUTE_LAYOUTS[width, atom_k]
    column_strides = (*column_strides, atom_k * rows)
    packed = torch.zeros(rows * columns // 8, dtype=torch.uint8)
    by_row = bytes_by_row(meta, rows, columns, ORDERS[width])
    for row, byte in product(range(rows), range(columns // 8)):
        place = offset(row, row_shape, row_strides)
        place += offset(8 * byte, column_shape, column_strides)
        packed[place // 8] = by_row[row, byte]
    return packed


def random_meta(rows, columns, order=META_ORDER):
    """Give metadata of any nibbles."""
    generator = torch.Generator().manual_seed(rows + columns)
    nibble = torch.randint(0, 16, (rows, columns // 4), generator=generator, dtype=torch.uint8)
    return write_nibbles(nibble, order).reshape(meta_shape24(rows, columns, order))


def packed_matrix(rows, columns, dtype=torch.bfloat16):
    x = gaussian(rows, columns, dtype)
    mask = mask_row24(x)
    return *pack_rows24(x, mask), x * mask


def test_an_order_names_the_bits_of_a_place_the_slowest_first():
    nibble = torch.arange(8, dtype=torch.uint8).reshape(2, 4)
    assert write_nibbles(nibble, "R G g0").tolist() == [0x10, 0x32, 0x54, 0x76]
    assert write_nibbles(nibble, "G R g0").tolist() == [0x10, 0x54, 0x32, 0x76]
    assert write_nibbles(nibble, "R G g0 r0").tolist() == [0x40, 0x51, 0x62, 0x73]
    assert write_nibbles(nibble[:1, :3], "R G g0 r0").tolist() == [0x00, 0x01, 0x02, 0x00]


@pytest.mark.parametrize("order", ["R G g0", "G R r1 g0 r0", "R G g1 r0 g0", META_ORDER])
@pytest.mark.parametrize(("rows", "groups"), [(0, 3), (3, 0), (5, 3), (64, 16)])
def test_nibbles_are_read_back_from_any_order(order, rows, groups):
    nibble = torch.randint(0, 16, (rows, groups), dtype=torch.uint8)
    packed = write_nibbles(nibble, order)
    assert torch.equal(read_nibbles(packed, order, rows, groups), nibble)


def test_our_metadata_is_sm90s_for_16_bit_values_with_atoms_of_64():
    meta = random_meta(192, 384)
    assert torch.equal(to_sm90_16bit(meta, 192, 384, 64), meta.flatten())
    assert torch.equal(from_sm90_16bit(meta, 192, 384, 64), meta)


@pytest.mark.parametrize(("rows", "columns"), SIZES)
@pytest.mark.parametrize(("width", "atom_k"), CUTE_LAYOUTS)
def test_sm90_bytes_lie_where_cute_says(width, atom_k, rows, columns):
    meta = random_meta(rows, columns, ORDERS[width])
    packed = PACK[width](meta, rows, columns, atom_k)
    assert torch.equal(packed, sm90_by_hand(meta, rows, columns, width, atom_k))
    assert torch.equal(UNPACK[width](packed, rows, columns, atom_k), meta)


def test_sm90_words_of_rows_r_and_r_plus_8_are_neighbours():
    nibble = torch.zeros(64, 32, dtype=torch.uint8)
    nibble[0, :4], nibble[8, :4], nibble[0, 8:12] = 1, 2, 3
    meta = write_nibbles(nibble, META_ORDER).reshape(2, 1, 512)
    packed = to_sm90_16bit(meta, 64, 128, 128)
    assert packed[:6].tolist() == [0x11, 0x11, 0x22, 0x22, 0x33, 0x33]


@pytest.mark.parametrize(("rows", "columns"), [(0, 8), (1, 4), (65, 132), (100, 320)])
@pytest.mark.parametrize(("width", "atom_k"), CUTE_LAYOUTS)
def test_sm90_layouts_are_padded_with_zeros_to_whole_atoms(width, atom_k, rows, columns):
    order = ORDERS[width]
    meta = random_meta(rows, columns, order)
    padded_rows, padded_columns = rows + -rows % 64, columns + -columns % atom_k
    padded = torch.zeros(padded_rows, padded_columns // 4, dtype=torch.uint8)
    padded[:rows, : columns // 4] = nibbles24(meta, rows, columns // 4, order)
    padded_shape = meta_shape24(padded_rows, padded_columns, order)
    padded_meta = write_nibbles(padded, order).reshape(padded_shape)
    packed = PACK[width](meta, rows, columns, atom_k)
    assert torch.equal(packed, PACK[width](padded_meta, padded_rows, padded_columns, atom_k))
    assert torch.equal(UNPACK[width](packed, rows, columns, atom_k), meta)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("rows", "columns"), [(32, 64), (96, 192), (128, 320)])
def test_aten_cutlass_is_what_pytorch_makes_from_the_dense_matrix(rows, columns, dtype):
    values, meta, dense = packed_matrix(rows, columns, dtype)
    torch_values, torch_meta = aten.sparse_semi_structured_from_dense_cutlass(dense)
    packed = to_aten_cutlass(meta, rows, columns)
    assert torch.equal(values, torch_values)
    assert torch.equal(packed, torch_meta)
    assert torch.equal(aten.sparse_semi_structured_to_dense_cutlass(values, packed), dense)


def test_aten_cutlass_is_read_back_in_both_shapes():
    meta = random_meta(96, 192)
    packed = to_aten_cutlass(meta, 96, 192)
    as_tile_kernel = packed.reshape(6, 96, 2).permute(1, 2, 0)
    assert torch.equal(from_aten_cutlass(packed, 96, 192), meta)
    assert torch.equal(from_aten_cutlass(as_tile_kernel, 96, 192), meta)


def test_aten_cusparselt_blocks_of_32_x_32_are_those_of_cutlass_in_another_order():
    rows, columns = 256, 384
    values, meta, _ = packed_matrix(rows, columns)
    words = to_aten_cusparselt(values, meta).flatten()[rows * columns // 2 :].view(torch.int16)
    nibble = nibbles24(meta, rows, columns // 4)
    for row, column in product(range(0, rows, 32), range(0, columns, 32)):
        # MetadataCuSparseLt: 128 x 64 tiles down the rows, in them 32 x 32 blocks down the rows
        tile = column // 64 * (rows // 128) + row // 128
        block = 8 * tile + 4 * (column // 32 % 2) + row // 32 % 4
        two_blocks = nibble[row : row + 32, column // 64 * 16 : column // 64 * 16 + 16]
        atom = write_nibbles(two_blocks, META_ORDER).reshape(1, 1, 512)
        expected = to_aten_cutlass(atom, 32, 64).flatten()[64 * (column // 32 % 2) :][:64]
        assert torch.equal(words[64 * block : 64 * block + 64], expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_aten_cusparselt_is_values_then_metadata(dtype):
    values, meta, _ = packed_matrix(128, 256, dtype)
    packed = to_aten_cusparselt(values, meta)
    assert packed.dtype == dtype
    assert packed.shape == (128, 256 * 9 // 16)
    assert torch.equal(packed.flatten()[: values.numel()].reshape(values.shape), values)
    got_values, got_meta = from_aten_cusparselt(packed.flatten(), 128, 256)
    assert torch.equal(got_values, values)
    assert torch.equal(got_meta, meta)


# The nibble strides of the bits of row and group, lowest first, which changing one group at a time
# of what torch._cslt_compress compresses showed on an H200 (PyTorch 2.11, cuSPARSELt 0.8.0).
CUSPARSELT_STRIDES = {
    (torch.bfloat16, 256, 512): (
        [16, 32, 64, 1, 128, 256, 8192, 16384],
        [4, 8, 2, 512, 1024, 2048, 4096],
    ),
    (torch.bfloat16, 512, 256): (
        [16, 32, 64, 1, 128, 256, 4096, 8192, 16384],
        [4, 8, 2, 512, 1024, 2048],
    ),
    (torch.int8, 256, 512): (
        [32, 64, 128, 2, 256, 512, 8192, 16384],
        [1, 8, 16, 4, 1024, 2048, 4096],
    ),
}


def nibbles_of(words):
    """Give the nibbles of a tensor's bytes, low first."""
    packed = words.contiguous().view(torch.uint8)
    return torch.stack([packed & 15, packed >> 4], dim=-1).flatten()


@pytest.mark.parametrize(("dtype", "rows", "columns"), CUSPARSELT_STRIDES)
def test_cusparselts_nibbles_on_sm90_lie_where_it_was_seen_to_put_them(dtype, rows, columns):
    row_strides, group_strides = CUSPARSELT_STRIDES[dtype, rows, columns]
    order = meta_order24(dtype)
    meta = random_meta(rows, columns, order)
    values = torch.ones(rows, columns // 2, dtype=dtype)
    got = nibbles_of(to_cusparselt_sm90(values, meta).flatten()[rows * columns // 2 :])
    row, group = torch.arange(rows)[:, None], torch.arange(columns // 4)
    place = sum((row >> bit & 1) * stride for bit, stride in enumerate(row_strides))
    place = place + sum((group >> bit & 1) * stride for bit, stride in enumerate(group_strides))
    assert torch.equal(got[place], nibbles24(meta, rows, columns // 4, order))


def test_cusparselts_blocks_on_sm90_are_64_rows_of_any_width():
    values, meta, _ = packed_matrix(384, 640)
    got = nibbles_of(to_cusparselt_sm90(values, meta).flatten()[384 * 320 :])
    nibble = nibbles24(meta, 384, 160)
    seen_of_rows = [0, 256, 10240, 10496, 20480, 20736, 30720, 30976, 40960, 41216, 51200, 51456]
    assert torch.equal(got[seen_of_rows], nibble[::32, 0])
    assert torch.equal(got[0:10240:512], nibble[0, ::8])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int8, torch.float8_e4m3fn])
def test_cusparselt_on_sm90_is_values_then_metadata(dtype):
    x = (100 * gaussian(64, 256)).clamp(-100, 100)
    values, meta = pack_rows24(x.to(dtype), mask_row24(x))
    packed = to_cusparselt_sm90(values, meta)
    assert packed.dtype == dtype
    assert packed.shape == (64, 160 if dtype.itemsize == 1 else 144)
    got_values, got_meta = from_cusparselt_sm90(packed, 64, 256)
    assert torch.equal(got_values.view(torch.uint8), values.view(torch.uint8))
    assert torch.equal(got_meta, meta)


def test_tensors_at_odd_offsets_pack_and_unpack():
    meta = random_meta(128, 256)
    odd = torch.full((5, 3, 515), 255, dtype=torch.uint8)[1:, 1:, 3:]
    odd.copy_(meta)
    values = torch.zeros(128, 128, dtype=torch.float16)
    odd_values = torch.ones(129, 131, dtype=torch.float16)[1:, 3:]
    odd_values.copy_(values)
    assert torch.equal(to_aten_cutlass(odd, 128, 256), to_aten_cutlass(meta, 128, 256))
    assert torch.equal(to_sm90_16bit(odd, 128, 256, 64), to_sm90_16bit(meta, 128, 256, 64))
    for join, split in (
        (to_aten_cusparselt, from_aten_cusparselt),
        (to_cusparselt_sm90, from_cusparselt_sm90),
    ):
        joined = join(values, meta)
        assert torch.equal(join(odd_values, odd).view(torch.int16), joined.view(torch.int16))
        odd_joined = torch.ones(129, 147, dtype=torch.float16)[1:, 3:]
        odd_joined.copy_(joined)
        assert torch.equal(split(odd_joined, 128, 256)[1], meta)


def test_what_cannot_be_packed_is_named():
    meta = random_meta(64, 128)
    values = torch.zeros(64, 64)
    with pytest.raises(ValueError, match="atom_k: 96 should be one of 32, 64, 128"):
        to_sm90_16bit(meta, 64, 128, 96)
    with pytest.raises(ValueError, match="atom_k: 32 should be one of 64, 128"):
        to_sm90_8bit(meta.reshape(1, 1, 1024), 64, 128, 32)
    with pytest.raises(ValueError, match=r"meta: shape \(2, 1, 512\) should be \(2, 2, 512\)"):
        to_sm90_16bit(meta, 65, 128, 64)
    with pytest.raises(ValueError, match="packed: 1024 bytes should be 2048"):
        from_sm90_16bit(meta.flatten(), 65, 128, 64)
    with pytest.raises(ValueError, match="meta: of a 63 x 128 matrix"):
        to_aten_cutlass(meta, 63, 128)
    with pytest.raises(ValueError, match=r"values: torch\.float32 should be float16 or bfloat16"):
        to_aten_cusparselt(values, meta)
    with pytest.raises(ValueError, match=r"values: torch\.float32 should be one of torch"):
        to_cusparselt_sm90(values, meta)
    with pytest.raises(ValueError, match=r"meta: shape \(2, 1, 512\) should be \(4, 2, 512\)"):
        to_aten_cusparselt(torch.zeros(128, 128).bfloat16(), meta)
    with pytest.raises(ValueError, match="multiple of 128 x 128"):
        to_aten_cusparselt(values.bfloat16(), meta)
    with pytest.raises(ValueError, match="64 x 192 matrix, which is not a multiple of 64 x 128"):
        to_cusparselt_sm90(
            torch.zeros(64, 96, dtype=torch.int8), random_meta(64, 192, META_ORDER_8BIT)
        )
    with pytest.raises(ValueError, match="packed: 18432 bytes should be 9216"):
        from_cusparselt_sm90(torch.zeros(64, 144, dtype=torch.half), 64, 128)
