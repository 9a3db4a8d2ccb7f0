"""What the tests of the ops share: the accuracy rule and sample inputs."""

import torch
from torch import Tensor


def assert_as_accurate_as_torch(
    got: Tensor, torch_result: Tensor, oracle: Tensor, *, factor: float = 2.0, floor: float = 1e-5
) -> None:
    """Hold got to at most `factor` times PyTorch's own error against a float64 oracle.

    Errors are the largest and the root mean square, relative to the largest of the oracle.
    """
    assert oracle.dtype == torch.float64
    assert got.shape == oracle.shape
    if oracle.numel() == 0:
        return
    scale = oracle.abs().max().clamp(min=1e-300)
    error, allowed = ((x.double() - oracle) / scale for x in (got, torch_result))
    for norm in (lambda x: x.abs().max(), lambda x: x.square().mean().sqrt()):
        assert norm(error) <= factor * norm(allowed) + floor


def gaussian(rows: int, columns: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Give a normal matrix that depends on its arguments only."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator).to(dtype)


def within_nan(x: Tensor) -> Tensor:
    """Give a non-contiguous view equal to x, at an odd offset of a buffer full of NaN or 255."""
    fill = float("nan") if x.is_floating_point() else torch.iinfo(x.dtype).max
    rows, columns = x.flatten(1).shape
    buffer = torch.full((2 * columns + 3, rows + 3), fill, dtype=x.dtype)
    view = buffer[1 : 1 + 2 * columns : 2, 3:].T.unflatten(1, x.shape[1:])
    view.copy_(x)
    return view
