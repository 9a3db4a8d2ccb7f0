"""Models of others, made sparse wherever they can be: what is reported sparse is multiplied sparse.

The slow ones run by `scripts/test --all`; one of each library runs always.
"""

import inspect
import re
from importlib import import_module
from typing import Any

import pytest
import timm
import torch
from nn_checks import normal
from sweep_checks import check_model
from sweep_models import HUGGING_FACE, TIMM, TORCHVISION

from sparsetrain.nn import Sparsity, sparsify

READERS = {
    "Attention",  # timm's BEiT
    "EvaAttention",
    "Mamba2Mixer",
    "MultiheadAttention",
    "NaFlexEmbeds",
    "ShiftedWindowAttention",
    "ShiftedWindowAttentionV2",
    "ShiftedWindowAttention3d",
    "WindowAttention",  # of Swin v2
}
"""Modules whose sources say that they multiply by the weight of a layer below them themselves."""

REASONS = re.compile(
    r"(in|out)_features=\d+ is not a multiple of 4"
    r"|its MLP takes coordinates \(a position bias\)"
    r"|its weight is tied to [\w.]+, which stays dense"
    r"|PhimoeTopKRouter is not a plain nn.Linear: it has a forward of its own"
    rf"|({'|'.join(sorted(READERS))}) reads its weight without calling it"
)


def slow_but(fast, names):
    return [n if n == fast else pytest.param(n, marks=pytest.mark.slow) for n in names]


def assert_sparse_or_refused_with_a_reason(model, inputs):
    report, idle = check_model(model, inputs)
    assert idle == []
    unknown = {r.name: r.reason for r in report.skipped if not REASONS.fullmatch(r.reason)}
    assert unknown == {}


def image_input(model, images):
    return {next(iter(inspect.signature(model.forward).parameters)): images}


@pytest.mark.parametrize("name", slow_but("vit_tiny_patch16_224", TIMM))
def test_timm(name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=8, **TIMM[name])
    size = TIMM[name].get("img_size", 64)
    assert_sparse_or_refused_with_a_reason(model, image_input(model, normal(2, 3, size, size)))


@pytest.mark.parametrize("name", slow_but("swin_v2", TORCHVISION))
def test_torchvision(name):
    torch.manual_seed(0)
    make, shape = TORCHVISION[name]
    model = make()
    assert_sparse_or_refused_with_a_reason(model, image_input(model, normal(*shape)))


@pytest.mark.parametrize("name", slow_but("llama", HUGGING_FACE))
def test_hugging_face(name):
    torch.manual_seed(0)
    # Here, and by name: all their modules together take ten seconds to import.
    hf: Any = import_module("transformers")
    model, config, arguments, inputs = HUGGING_FACE[name]
    built = getattr(hf, model)(getattr(hf, config)(**arguments))
    assert_sparse_or_refused_with_a_reason(built, inputs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "ghostnet_050"])
def test_a_model_whose_only_linear_layer_has_a_forward_of_its_own_is_refused(name):
    model = timm.create_model(name)
    with pytest.raises(ValueError, match=r"Linear is not a plain nn\.Linear: it has a forward"):
        sparsify(model, Sparsity())
