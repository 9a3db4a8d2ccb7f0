"""A product in cuSPARSELt: it is timed where its result is right."""

import torch

from sparsetrain.bench import cusparselt
from sparsetrain.bench.cusparselt import usable_cusparselt
from sparsetrain.bench.products import Shape, make_product

PRODUCT = make_product("W24 forward", Shape(128, 64, 128), torch.bfloat16, torch.device("cpu"))


def test_where_it_refuses_the_reason_is_its_first_line(monkeypatch):
    def refuse(product):
        raise RuntimeError("no cuSPARSELt here\nbacktrace")

    monkeypatch.setattr(cusparselt, "compressed", refuse)
    assert usable_cusparselt(PRODUCT, lambda result: "") == "RuntimeError: no cuSPARSELt here"


def test_a_wrong_result_is_the_reason(monkeypatch):
    monkeypatch.setattr(cusparselt, "compressed", lambda product: product.a)
    monkeypatch.setattr(cusparselt, "cusparselt_call", lambda a, product: product.dense)
    found = usable_cusparselt(PRODUCT, lambda result: "wrong")
    assert found == "wrong"
    call = usable_cusparselt(PRODUCT, lambda result: "")
    assert not isinstance(call, str)
    assert torch.equal(call(), PRODUCT.dense())
