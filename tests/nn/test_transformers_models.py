"""sparsify on Hugging Face transformers, tiny and random."""

from importlib import import_module
from typing import Any

import pytest
import torch
from nn_checks import assert_sparse_both_ways, layers, normal, seeded

from sparsetrain.methods import Activation24
from sparsetrain.nn import Sparsity, sparsify

# Typed, its 500 models take a quarter of pyright's time.
hf: Any = import_module("transformers")

pytestmark = pytest.mark.slow

TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def called_layers(model, run):
    called = set()
    for name, layer in layers(model).items():
        layer.register_forward_hook(lambda *_, n=name: called.add(n))
    run(model)
    return called


def test_vit_is_sparse_in_its_encoder_and_trains():
    config = hf.ViTConfig(image_size=32, patch_size=8, **TINY)
    model = hf.ViTForImageClassification(config)
    sparsify(model, Sparsity(exclude=("classifier",)))
    # Query, key, value, output and two of the MLP in each of two layers.
    assert len(layers(model)) == 12
    assert_sparse_both_ways(model)
    images = normal(2, 3, 32, 32)
    assert called_layers(model, lambda m: m(images)) == set(layers(model))
    out = model(images, labels=torch.tensor([0, 1]))
    out.loss.backward()
    assert all(layer.weight.grad.isfinite().all() for layer in layers(model).values())


def test_bert_is_sparse_but_for_the_head_that_its_embedding_shares():
    model = seeded(
        hf.BertForMaskedLM(hf.BertConfig(vocab_size=32, max_position_embeddings=16, **TINY))
    )
    report = sparsify(model, Sparsity())
    head = "cls.predictions.decoder"
    why = "its weight is tied to bert.embeddings.word_embeddings, which stays dense"
    assert [(row.name, row.reason) for row in report.skipped] == [(head, why)]
    assert_sparse_both_ways(model)
    tokens = torch.arange(8).reshape(1, 8)
    assert called_layers(model, lambda m: m(tokens)) == set(layers(model))
    model(tokens, labels=tokens).loss.backward()
    assert all(layer.weight.grad.isfinite().all() for layer in layers(model).values())


def test_its_state_dict_is_the_dense_models():
    config = hf.BertConfig(vocab_size=32, max_position_embeddings=16, **TINY)
    model, dense = hf.BertForMaskedLM(config), hf.BertForMaskedLM(config)
    sparsify(model, Sparsity())
    assert list(model.state_dict()) == list(dense.state_dict())
    dense.load_state_dict(model.state_dict(), strict=True)


def gpt2():
    return hf.GPT2Config(vocab_size=32, n_positions=16, n_embd=16, n_layer=1, n_head=2)


def test_gpt2_has_no_linear_layers_but_its_head_and_the_error_says_so():
    with pytest.raises(ValueError, match=r"'\*attn\*' matches no linear layer; it has lm_head"):
        sparsify(hf.GPT2LMHeadModel(gpt2()), Sparsity(include=("*attn*",)))
    with pytest.raises(ValueError, match="the model has none"):
        sparsify(hf.GPT2Model(gpt2()), Sparsity())


def test_mlps_by_other_names_cannot_take_activations():
    model = hf.BertForMaskedLM(hf.BertConfig(vocab_size=32, max_position_embeddings=16, **TINY))
    with pytest.raises(
        ValueError, match=r"layer\.0\.intermediate: its second linear layer is in another"
    ):
        sparsify(model, Sparsity(weight=None, activation=Activation24()))


def test_the_mlps_of_vit_are_one_function():
    model = hf.ViTModel(hf.ViTConfig(image_size=32, patch_size=8, **TINY))
    report = sparsify(model, Sparsity(), "native")
    assert (
        report.fused == "2 MLPs: fc1, GELU and fc2 as one function, until one of them is changed."
    )
