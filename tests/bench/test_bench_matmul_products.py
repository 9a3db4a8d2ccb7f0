"""The six products: problems, operands, bytes, and the error of a result."""

import pytest
import torch

from sparsetrain.bench.products import PRODUCTS, Shape, make_product, problem_of
from sparsetrain.products import Problem
from sparsetrain.reference.pack24 import padded_rows

CPU = torch.device("cpu")
BF16 = torch.bfloat16
SMALL = Shape(tokens=200, features=64, hidden=96)
VIT_L = Shape(25216, 1024, 4096)


def small(name):
    return make_product(name, SMALL, BF16, CPU)


def test_the_problems_of_a_layer():
    found = {name: problem_of(name, VIT_L, BF16) for name in PRODUCTS}
    T, d, h = VIT_L.tokens, VIT_L.features, VIT_L.hidden
    assert found == {
        "W24 forward": Problem(BF16, h, T, d, "columns", True),
        "W24 dX": Problem(BF16, d, T, h, "columns", True),
        "act24 forward": Problem(BF16, T, d, h, "columns", False),
        "act24 dW": Problem(BF16, h, d, T, "rows", True),
        "dz24 dX": Problem(BF16, T, d, h, "rows", False),
        "dz24 dW": Problem(BF16, h, d, T, "rows", False),
    }


@pytest.mark.parametrize("name", PRODUCTS)
def test_the_operands_are_those_of_the_problem(name):
    product = small(name)
    M, N, K = product.problem.M, product.problem.N, product.problem.K
    assert product.values.shape == (M, K // 2)
    assert product.b.shape[1] == N
    contiguous = 1 if product.problem.b_layout == "rows" else 0
    assert product.b.stride(contiguous) == 1
    along_rows = name in ("W24 forward", "act24 forward", "dz24 dX")
    assert (product.b.shape[0] if along_rows else padded_rows(product.b.shape[0])) == K


@pytest.mark.parametrize("name", PRODUCTS)
def test_ours_is_the_dense_product_of_the_pruned_operand(name):
    product = small(name)
    wanted = product.masked()
    assert torch.equal(product.native(), wanted)
    assert product.error(product.native()) < 4e-3
    assert product.dense().shape == wanted.shape
    assert torch.equal(product.a @ product.b, wanted.T if product.problem.transpose_out else wanted)
    assert torch.allclose(product.dense_transposed().T, product.dense(), rtol=2e-2, atol=1e-1)
    half = product.pruned.view(-1, 4).count_nonzero(dim=1)
    assert (half <= 2).all()


def test_the_shapes_of_the_results_are_what_a_layer_wants():
    T, d, h = SMALL.tokens, SMALL.features, SMALL.hidden
    shapes = {name: tuple(small(name).native().shape) for name in PRODUCTS}
    assert shapes == {
        "W24 forward": (T, h),
        "W24 dX": (T, d),
        "act24 forward": (T, d),
        "act24 dW": (d, h),
        "dz24 dX": (T, d),
        "dz24 dW": (h, d),
    }


def test_work_and_bytes_count_the_padding_only_where_it_is_moved():
    product = small("act24 dW")
    assert product.flops == 2 * 96 * 64 * 200
    dense, result = 2 * 200 * 64, 2 * 64 * 96
    assert product.bytes_moved(sparse=True) == 96 * 256 * (1 + 1 / 8) + dense + result
    assert product.bytes_moved(sparse=False) == 2 * 200 * 96 + dense + result


def test_one_wrong_tile_of_a_large_result_is_seen():
    product = make_product("W24 forward", Shape(2000, 64, 1536), BF16, CPU)
    result = product.masked()
    right = product.error(result)
    result[640:704, 1024:1088] = 0
    assert product.error(result) > 10 * right


def test_not_a_number_is_no_small_error():
    product = small("dz24 dX")
    result = product.masked()
    result[3, 5] = float("nan")
    assert not product.error(result) <= 1e9
