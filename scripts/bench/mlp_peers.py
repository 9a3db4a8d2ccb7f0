"""What xFormers and torchao have for the MLP of a training step, as their users would put it in.

    xformers-cutlass      both weights by xformers.ops.sp24.sparsify24_ste, its CUTLASS kernels
    xformers-cusparselt   the same, products in cuSPARSELt
    torchao-weights       both linears torchao.sparsity.training.SemiSparseLinear
    torchao-activations   fc2 its SemiSparseActivationLinear, behind squared ReLU

They choose masks and pack in every forward. Each is tried compiled, then in eager mode.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from scripts.bench.mlp_step import Mlp
from scripts.bench.peers import GREEDY, load_xformers
from sparsetrain.nn import SquaredReLU

PEERS = ("xformers-cutlass", "xformers-cusparselt", "torchao-weights", "torchao-activations")
"""What `peers=` chooses from."""

REFUSALS = (RuntimeError, ValueError, TypeError, AttributeError, AssertionError, ImportError)
"""How they refuse a device, a dtype, a bias, a version: they have no error of their own."""


def make_peer(name: str, block: nn.Module) -> None:
    """Put the peer into the block's MLP, in place. Raises one of REFUSALS."""
    mlp = block.mlp
    assert isinstance(mlp, Mlp), "the block is as made"
    if name.startswith("xformers-"):
        sparsify = _xformers()
        backend = name.removeprefix("xformers-")
        mlp.fc1 = _XformersLinear(mlp.fc1, sparsify, backend)
        mlp.fc2 = _XformersLinear(mlp.fc2, sparsify, backend)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside torchao
        torchao: Any = importlib.import_module("torchao.sparsity.training")
    if name == "torchao-activations":
        mlp.act = SquaredReLU()
        linears = {"mlp.fc2": torchao.SemiSparseActivationLinear}
    else:
        linears = dict.fromkeys(("mlp.fc1", "mlp.fc2"), torchao.SemiSparseLinear)
    torchao.swap_linear_with_semi_sparse_linear(block, linears)


class _XformersLinear(nn.Linear):
    """A linear layer on the parameters of `dense`, its weight 2:4 in xFormers' kernels."""

    def __init__(self, dense: nn.Linear, sparsify: Callable[..., Any], backend: str) -> None:
        super().__init__(1, 1, device="meta")
        self.in_features, self.out_features = dense.in_features, dense.out_features
        self.weight, self.bias = dense.weight, dense.bias
        self.sparsify, self.backend = sparsify, backend

    def forward(self, input: Tensor) -> Tensor:
        weight, bias = self.weight.to(input.dtype), self.bias.to(input.dtype)
        weight24 = self.sparsify(weight, algo=GREEDY, backend=self.backend)
        if self.backend == "cutlass":  # takes no bias
            return F.linear(input, weight24) + bias
        return F.linear(input, weight24, bias)


def _xformers() -> Callable[..., Any]:
    found = load_xformers()
    if isinstance(found, str):
        raise ImportError(found)
    return importlib.import_module("xformers.ops.sp24").sparsify24_ste
