"""GPT-2, Llama and BERT, tiny and random, prune like any other model."""

import copy

import pytest
import torch

import sparsetrain as st

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.slow  # its imports

TINY = {
    "vocab_size": 32,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 16,
}


def gpt2():
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=32, n_positions=16, n_embd=16, n_layer=2, n_head=2)
    )


def llama():
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**TINY))


def bert():
    return transformers.BertForMaskedLM(transformers.BertConfig(**TINY))


def batches():
    ids = torch.randint(0, 32, (3, 2, 8), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": each, "attention_mask": torch.ones_like(each)} for each in ids]


@pytest.mark.parametrize("make", [gpt2, llama, bert])
def test_it_prunes_without_a_special_case(make):
    torch.manual_seed(0)
    model = make().eval()
    names, shapes = zip(*((n, t.shape) for n, t in model.state_dict().items()), strict=True)
    ran = st.prune(model, st.SparseGPT(), st.Sparsity(), calibration=batches(), refit=True)
    layers = {"gpt2": 8, "llama": 15, "bert": 13}[make.__name__]
    assert len(ran.layers) == layers
    assert all(layer.density == 0.5 for layer in ran.layers)
    assert max(layer.error or 9.0 for layer in ran.layers) < 0.8
    state = model.state_dict()
    assert (tuple(state), tuple(t.shape for t in state.values())) == (names, shapes)
    other = make().eval()
    other.load_state_dict(state)
    ids = batches()[0]
    torch.testing.assert_close(other(**ids).logits, model(**ids).logits)
    st.densify(model, apply_masks=True)
    torch.testing.assert_close(other(**ids).logits, model(**ids).logits)


def test_conv1d_layers_load_save_and_copy_as_before(tmp_path):
    torch.manual_seed(0)
    model, dense = gpt2().eval(), gpt2().eval()
    st.prune(model, st.Magnitude(), st.Sparsity(include=("*mlp*",)))
    ids = batches()[0]
    copied = copy.deepcopy(model)
    assert torch.equal(copied(**ids).logits, model(**ids).logits)
    st.densify(model, apply_masks=True)
    model.save_pretrained(tmp_path)
    again = transformers.GPT2LMHeadModel.from_pretrained(tmp_path)
    torch.testing.assert_close(again(**ids).logits, model(**ids).logits)
    model.load_state_dict(dense.state_dict())
    torch.testing.assert_close(model(**ids).logits, dense(**ids).logits)


def test_a_refused_model_has_its_conv1d_layers_again():
    model = gpt2()
    with pytest.raises(ValueError, match="matches no linear layer"):
        st.prune(model, st.Magnitude(), st.Sparsity(include=("*nothing*",)))
    assert type(model.transformer.h[0].mlp.c_fc).__name__ == "Conv1D"
