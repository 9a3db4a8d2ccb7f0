"""A sparse matrix as the plain tensors it consists of, and back.

The parts have PyTorch's names (`values`, `crow_indices`, …), so that
`torch.sparse_csr_tensor(crow_indices, col_indices, values, shape)` makes it again; SciPy's
`csr_matrix((values, col_indices, crow_indices))` takes the same arrays.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

PARTS = {
    "coo": ("indices", "values"),
    "csr": ("crow_indices", "col_indices", "values"),
    "bsr": ("crow_indices", "col_indices", "values"),
}


def to_parts(weight: Tensor, form: str, block: tuple[int, int] | None = None) -> dict[str, Tensor]:
    """The parts of a matrix [R, C] as `form`: coo, csr, or bsr with blocks of that size.

    indices: int64 [2, N]. crow_indices: int64 [R + 1], or of block rows. col_indices: int64 [N].
    values: [N], or [N, rows, columns] of blocks.
    """
    with _checked():
        if form == "coo":
            sparse = weight.to_sparse_coo().coalesce()
            return {"indices": sparse.indices(), "values": sparse.values()}
        if form == "csr":
            sparse = weight.to_sparse_csr()
        else:
            assert block is not None, "asked before"
            sparse = weight.to_sparse_bsr(block)
        return {part: getattr(sparse, part)() for part in PARTS[form]}


def from_parts(parts: Mapping[str, Tensor], form: str, shape: tuple[int, int]) -> Tensor:
    """Undo `to_parts`: a tensor of torch.sparse."""
    with _checked():
        if form == "coo":
            return torch.sparse_coo_tensor(
                parts["indices"], parts["values"], shape, check_invariants=True
            ).coalesce()
        make = torch.sparse_csr_tensor if form == "csr" else torch.sparse_bsr_tensor
        arguments = (parts["crow_indices"], parts["col_indices"], parts["values"], shape)
        return make(*arguments, check_invariants=True)


@contextmanager
def _checked() -> Iterator[None]:
    """Invariants checked, since files come from anywhere."""
    with warnings.catch_warnings(), torch.sparse.check_sparse_tensor_invariants(True):
        # Each first use of CSR and BSR says that they are in beta.
        warnings.filterwarnings("ignore", ".*Sparse .* tensor support is in beta", UserWarning)
        yield
