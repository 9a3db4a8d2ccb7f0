"""register: what an op's check, fake and kernel are given, and when the check runs."""

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from sparsetrain.ops.register import register


def _check(x: Tensor, factor: float, bias: Tensor | None, dtype: torch.dtype | None) -> None:
    if factor < 0:
        raise ValueError(f"factor: {factor} is negative; use 0 or more")


def _kernel(x: Tensor, factor: float, bias: Tensor | None, dtype: torch.dtype | None) -> Tensor:
    return x * factor if bias is None else x * factor + bias


scaled = register(
    "_scaled_for_a_test(Tensor x, float factor=2.0, Tensor? bias=None, ScalarType? dtype=None)"
    " -> Tensor",
    check=_check,
    fake=lambda x, factor, bias, dtype: x.new_empty(x.shape),
    kernel=_kernel,
)
op = torch.ops.sparsetrain._scaled_for_a_test


def test_the_kernel_gets_the_schemas_defaults():
    x = torch.ones(2, 3)
    assert torch.equal(op(x), 2 * x)
    assert torch.equal(op(x, bias=x), 3 * x)
    assert torch.equal(scaled(x, 3.0, None, None), 3 * x)


def test_the_fake_gets_the_schemas_defaults():
    with FakeTensorMode():
        assert op(torch.empty(2, 3)).shape == (2, 3)


@pytest.mark.parametrize("call", [scaled, op])
def test_function_and_op_refuse_alike(call):
    with pytest.raises(ValueError, match=r"factor: -1\.0 is negative; use 0 or more"):
        call(torch.ones(2), -1.0, None, None)


def test_the_function_refuses_fake_tensors_too():
    with FakeTensorMode(), pytest.raises(ValueError, match=r"factor: -1\.0 is negative"):
        scaled(torch.empty(2), -1.0, None, None)


def test_the_op_passes_opcheck():
    torch.library.opcheck(op.default, (torch.ones(2, 3),))
