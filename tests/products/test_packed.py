"""Packed: its two products are those of the dense matrix, whatever forms are there."""

from typing import Any

import pytest
import torch
from aten_checks import aten_on_cpu
from autograd_checks import SELECTIONS, normal
from ops_checks import assert_as_accurate_as_torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from sparsetrain.methods import SSTE
from sparsetrain.ops import mask24, mvue24, pack24, select24
from sparsetrain.products import (
    ATEN,
    BOTH,
    MASKED,
    NATIVE,
    Forms,
    Packed,
    Product,
    pack,
    pack_columns,
    product_of,
    squared_relu_gradient,
    squared_relu_packed,
    unpruned,
)
from sparsetrain.products import packed as packed_module
from sparsetrain.select import EXACT, ROW

R, C, N = 70, 64, 24
FORMS = {
    "both": BOTH,
    "rows, dense": Forms(True, False, True),
    "columns, dense": Forms(False, True, True),
}

products = pytest.mark.parametrize("product", [MASKED, NATIVE, ATEN], ids=lambda p: p.name)
portable = pytest.mark.parametrize("product", [MASKED, NATIVE], ids=lambda p: p.name)
selections = pytest.mark.parametrize("selection", SELECTIONS, ids=str)
all_forms = pytest.mark.parametrize("forms", FORMS.values(), ids=FORMS)


@pytest.fixture(autouse=True)
def _aten():
    library = aten_on_cpu()
    yield
    library._destroy()


def there(packed: Packed) -> set[str]:
    return {
        name for name, t in zip(Packed._fields[1:], packed.tensors, strict=True) if t is not None
    }


def assert_multiplies_as(packed: Packed, a: Tensor) -> None:
    """Both products, straight and transposed, with a bias and in float32 where they have these."""
    by_rows, by_columns = (normal(n, N, seed=n, dtype=a.dtype) for n in (C, R))
    across, along = normal(N, seed=3, dtype=a.dtype), normal(R, seed=4, dtype=a.dtype)
    exact, exact_t = a.double() @ by_rows.double(), a.T.double() @ by_columns.double()
    for got, plain, oracle in (
        (packed.mm(by_rows), a @ by_rows, exact),
        (packed.mm(by_rows, across), a @ by_rows + across, exact + across.double()),
        (packed.mm(by_rows, None, True), (a @ by_rows).T, exact.T),
        (packed.mm(by_rows, along, True), (a @ by_rows).T + along, exact.T + along.double()),
        (packed.mm(by_rows, dtype=torch.float32), (a @ by_rows).float(), exact),
        (packed.t_mm(by_columns), a.T @ by_columns, exact_t),
        (packed.t_mm(by_columns, True), (a.T @ by_columns).T, exact_t.T),
        (packed.t_mm(by_columns, True, torch.float32), (a.T @ by_columns).T.float(), exact_t.T),
    ):
        assert got.dtype == plain.dtype
        assert_as_accurate_as_torch(got, plain, oracle)


@products
@selections
@all_forms
@pytest.mark.parametrize("given", [False, True], ids=["chosen", "given"])
def test_its_products_are_those_of_the_dense_matrix_under_its_mask(
    product, selection, forms, given
):
    x = normal(R, C, seed=1)
    mask = select24(x.flip(0) if given else x, selection.rule)
    packed = pack(x, mask if given else None, selection, product, torch.bfloat16, forms)
    a = mask24(x, mask, dtype=torch.bfloat16)
    by_rows = {"values", "meta"} if forms.rows else set()
    by_columns = {"values_t", "meta_t"} if forms.columns and selection.both else set()
    dense = {"dense"} if forms.dense or (forms.columns and not selection.both) else set()
    assert there(packed) == (by_rows | by_columns | dense if product.packs else {"dense"})
    assert packed.dtype == torch.bfloat16
    assert packed.spec.selection == selection
    if packed.dense is not None:
        assert torch.equal(packed.dense, a)
    if forms.rows or not product.packs or forms.dense:
        assert_multiplies_as(packed, a)


@portable
@pytest.mark.parametrize("selection", [EXACT, ROW], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_it_is_rounded_once_after_the_choice_in_any_dtype(product, selection, dtype):
    x = (1 + normal(R, C, seed=1) / 1000).double()  # ties, once they are rounded to 16 bits
    packed = pack(x, None, selection, product, dtype, Forms(True, False, True))
    assert packed.dense is not None
    assert torch.equal(packed.dense, mask24(x, select24(x, selection.rule)).to(dtype))
    assert_multiplies_as(packed, packed.dense)


@pytest.mark.parametrize("product", [NATIVE, ATEN], ids=lambda p: p.name)
@selections
@all_forms
def test_what_is_packed_is_not_multiplied_dense(product, selection, forms, monkeypatch):
    packed = pack(normal(R, C, seed=1), None, selection, product, torch.bfloat16, forms)
    dense: list[int] = []
    plain = packed_module.dense_product
    monkeypatch.setattr(packed_module, "dense_product", lambda *t: dense.append(1) or plain(*t))
    if forms.rows or forms.dense:
        packed.mm(normal(C, N, seed=2, dtype=torch.bfloat16))
        assert len(dense) == (not forms.rows)
    dense.clear()
    packed.t_mm(normal(R, N, seed=3, dtype=torch.bfloat16))
    assert len(dense) == (not (forms.columns and selection.both))


# What t_mm reads.


@products
@selections
@all_forms
def test_for_t_mm_keeps_what_t_mm_reads_and_no_more(product, selection, forms):
    packed = pack(normal(R, C, seed=1), None, selection, product, torch.bfloat16, forms)
    kept = packed.for_t_mm()
    columns = product.packs and forms.columns and selection.both
    expected = {"values_t", "meta_t"} if columns else {"dense"}
    assert there(kept) == expected
    assert kept.spec == packed.spec
    b = normal(R, N, seed=2, dtype=torch.bfloat16)
    assert torch.equal(kept.t_mm(b), packed.t_mm(b))
    with pytest.raises(AssertionError, match="its dense form was not asked for"):
        kept._replace(dense=None).mm(b)


def test_of_rows_alone_t_mm_reads_the_rows():
    x = normal(R, C, seed=1)
    packed = Packed(pack(x, None, ROW, NATIVE, x.dtype).spec, *pack24(x, select24(x, "row")))
    assert there(packed.for_t_mm()) == {"values", "meta"}
    assert_multiplies_as(packed, mask24(x, select24(x, "row")))


def test_two_masks_are_two_dense_tensors_of_which_t_mm_keeps_its_own():
    z = normal(R, C, seed=1)
    h24 = squared_relu_packed(z, ROW, MASKED)
    assert there(h24) == {"dense", "dense_t"}
    assert not torch.equal(h24.dense, h24.dense_t)  # pyright: ignore
    b = normal(R, N, seed=2)
    assert torch.equal(h24.for_t_mm().t_mm(b), h24.t_mm(b))
    assert torch.equal(h24.t_mm(b), h24.dense_t.T @ b)  # pyright: ignore


# Other values than weights.


@products
def test_what_is_not_pruned_has_dense_products(product):
    x = normal(R, C, seed=1)
    packed = unpruned(x, product, torch.bfloat16)
    assert there(packed) == {"dense"}
    assert packed.spec.selection is None
    assert packed.spec.product == product
    assert_multiplies_as(packed, x.bfloat16())


@products
def test_a_sample_that_is_packed_along_its_columns_is_transposed_only(product):
    grad = normal(R, C, seed=1, dtype=torch.bfloat16)
    sample = mvue24(grad, torch.tensor([7]))
    packed = pack_columns(*sample, R, product)
    b = normal(R, N, seed=2, dtype=torch.bfloat16)
    exact = pack_columns(*sample, R, MASKED).dense
    assert exact is not None
    plain, oracle = exact.T @ b, exact.T.double() @ b.double()
    assert_as_accurate_as_torch(packed.t_mm(b), plain, oracle)


@selections
def test_squared_relu_and_its_gradient_are_the_masked_ones(selection):
    z, dh, b = (normal(R, C, seed=s) for s in (1, 2, 3))
    both = []
    for product in (MASKED, NATIVE):
        h24 = squared_relu_packed(z, selection, product)
        dz24, sums = squared_relu_gradient(h24, dh)
        assert dz24.spec == h24.spec
        both.append([sums, *(p.mm(b.T) for p in (h24, dz24)), *(p.t_mm(b) for p in (h24, dz24))])
    for masked, native in zip(*both, strict=True):
        torch.testing.assert_close(native, masked)


def test_s_ste_and_rows_run_native_on_a_cpu_with_masked_numbers():
    x, b, b_t = normal(R, C, seed=1), normal(C, N, seed=2), normal(R, N, seed=3)
    scale = torch.tensor([1.25])

    def soft(product: Product) -> Packed:
        return SSTE().pack(x, None, scale, EXACT, product, torch.float32)

    for make in (soft, lambda product: pack(x, None, ROW, product, torch.float32)):
        masked, native = make(MASKED), make(NATIVE)
        assert there(native) == {"values", "meta", "dense"}
        torch.testing.assert_close(native.mm(b), masked.mm(b))
        torch.testing.assert_close(native.t_mm(b_t), masked.t_mm(b_t))


# Products by dtype and name.


def test_a_gpu_multiplies_2_of_4_in_16_bits_alone():
    for product in (NATIVE, ATEN):
        for dtype in (torch.bfloat16, torch.float16):
            assert product.in_dtype(dtype, on_gpu=True) == product
        assert product.in_dtype(torch.float32, on_gpu=True) == MASKED
    assert NATIVE.in_dtype(torch.float32, on_gpu=False) == NATIVE
    assert ATEN.in_dtype(torch.float32, on_gpu=False) == MASKED


def test_products_are_known_by_name():
    assert [product_of(name) for name in ("masked", "native", "aten")] == [MASKED, NATIVE, ATEN]
    assert product_of(NATIVE) == NATIVE
    with pytest.raises(ValueError, match="engine='fast': choose one of masked, native, aten"):
        product_of("fast")  # pyright: ignore


# Through autograd and torch.compile.


class Twice(torch.autograd.Function):
    """x24 @ b; the backward builds the value again from its spec and what was saved."""

    @staticmethod
    def forward(ctx: Any, b: Tensor, *packed: Any) -> Tensor:
        x24 = Packed(*packed)
        ctx.spec = x24.spec
        ctx.save_for_backward(*x24.for_t_mm().tensors)
        return x24.mm(b)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x24 = Packed(ctx.spec, *ctx.saved_tensors)
        return x24.t_mm(grad), *[None] * len(Packed._fields)


# torch 2.10 and 2.11 do this themselves when they trace an autograd.Function.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@portable
@selections
@all_forms
def test_a_function_saves_and_restores_it_compiled_in_one_graph_too(product, selection, forms):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    if product.packs and not forms.rows:
        forms = forms._replace(rows=True)  # the forward of this function reads them

    def function(x: Tensor, b: Tensor) -> Tensor:
        return Twice.apply(b, *pack(x, None, selection, product, torch.float32, forms))

    compiled = torch.compile(function, fullgraph=True, backend=counter)
    grad = normal(R, N, seed=3)
    for seed in (1, 2):
        x, b = normal(R, C, seed=seed), normal(C, N, seed=seed + 4).requires_grad_()
        a = mask24(x, select24(x, selection.rule))
        for run in (function, compiled):
            y = run(x, b)
            torch.testing.assert_close(y, a @ b)
            (grad_b,) = torch.autograd.grad(y, b, grad)
            torch.testing.assert_close(grad_b, a.T @ grad)
    assert counter.frame_count == 1
