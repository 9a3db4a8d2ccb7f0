"""PyTorch's 2:4 products on a CPU: what its CUDA kernel wants, checked, and what it gives."""

import torch
from torch import Tensor
from torch.sparse._semi_structured_conversions import sparse_semi_structured_to_dense_cutlass

WHOLE_GROUPS = {0x4, 0x8, 0x9, 0xC, 0xD, 0xE}
"""Metadata of a group that the hardware has a meaning for: two different positions, ascending."""


def aten_on_cpu() -> torch.library.Library:
    """Give the two ops a CPU kernel, until the library that is returned is destroyed."""
    library = torch.library.Library("aten", "IMPL")
    library.impl("_sparse_semi_structured_mm", _mm, "CPU")
    library.impl("_sparse_semi_structured_addmm", _addmm, "CPU")
    return library


def _mm(mat1: Tensor, mat1_meta: Tensor, mat2: Tensor, *, out_dtype=None) -> Tensor:
    return _product(mat1, mat1_meta, mat2).to(mat2.dtype)


def _addmm(
    input: Tensor, mat1: Tensor, mat1_meta: Tensor, mat2: Tensor, *, alpha=1, beta=1, out_dtype=None
) -> Tensor:
    assert input.is_contiguous()
    assert input.shape == mat1.shape[:1]
    assert input.dtype == mat2.dtype
    assert alpha == beta == 1
    return (_product(mat1, mat1_meta, mat2) + input.double()[:, None]).to(mat2.dtype)


def _product(mat1: Tensor, mat1_meta: Tensor, mat2: Tensor) -> Tensor:
    M, K, N = mat1.shape[0], 2 * mat1.shape[1], mat2.shape[1]
    assert mat1.dtype == mat2.dtype
    assert mat1.dtype in (torch.bfloat16, torch.float16)
    assert mat2.shape[0] == K
    assert M % 32 == K % 64 == N % 8 == 0
    for mat in (mat1, mat2):
        assert 1 in mat.stride()
        assert mat.storage_offset() % 8 == 0
        assert max(mat.stride()) % 8 == 0
    assert mat1_meta.dtype == torch.int16
    assert mat1_meta.shape == (M, K // 16)
    assert mat1_meta.is_contiguous()
    kept = mat1_meta.view(torch.uint8)
    assert set(torch.cat([kept & 15, kept >> 4]).unique().tolist()) <= WHOLE_GROUPS
    dense = sparse_semi_structured_to_dense_cutlass(mat1.contiguous(), mat1_meta)
    return dense.double() @ mat2.double()
