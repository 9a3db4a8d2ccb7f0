"""`export`: files that other tools read, checked here without the code that wrote them."""

import os
import stat
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from cli_helpers import call, fit, shown
from onnx.numpy_helper import to_array
from safetensors.torch import load_file

import sparsetrain as st
from sparsetrain.cli.load import load_trained
from sparsetrain.nn import set_sparse

SPARSE = [f"blocks.{block}.mlp.fc{part}.weight" for block in (0, 1) for part in (1, 2)]


def assert_two_of_four(weight):
    """At most two non-zeros in every four consecutive inputs, and zeros that are exactly half."""
    kept = np.count_nonzero(weight.reshape(-1, 4), axis=1)
    assert kept.max() == 2
    assert np.count_nonzero(weight) * 2 == weight.size


def logits(session, images):
    return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def test_safetensors_hold_exact_zeros_and_what_the_model_multiplies_by(trained, tmp_path):
    out = tmp_path / "new" / "vit.safetensors"
    ended = call("export", f"checkpoint={trained.last}", f"out={out}")
    assert ended.status == 0, ended.err
    assert shown(ended.out, "layers") == f"4 2:4: {4 * 384 * 96:,} values verified"
    tensors = load_file(out)
    for name in SPARSE:
        assert_two_of_four(tensors[name].numpy())
    saved = torch.load(trained.last, weights_only=True)["state_dict"]
    assert {f"network.{name}" for name in tensors} == saved.keys()
    for name, tensor in tensors.items():
        master = saved[f"network.{name}"]
        assert torch.equal(tensor, torch.where(tensor == 0, tensor, master)), name
        assert name in SPARSE or torch.equal(tensor, master), name


@pytest.mark.slow
def test_blocks_are_fine_tuned_from_an_exported_model(trained, tmp_path):
    out, run = tmp_path / "dense.safetensors", tmp_path / "run"
    assert call("export", f"checkpoint={trained.last}", f"out={out}").status == 0
    words = ["sparsity=block80_16", f"+model.options.checkpoint_path={out}", "optimizer.lr=1e-6"]
    ended = fit(run, *words, "optimizer.min_lr=0", "trainer.max_epochs=1")
    assert ended.status == 0, ended.err
    began, ended_as = load_file(out), torch.load(run / "checkpoints" / "last.ckpt")["state_dict"]
    for name in SPARSE:
        torch.testing.assert_close(ended_as[f"network.{name}"], began[name], atol=1e-4, rtol=0)


def test_an_exported_file_may_be_read_by_others(trained, tmp_path):
    out = tmp_path / "vit.safetensors"
    call("export", f"checkpoint={trained.last}", f"out={out}")
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(out.stat().st_mode) == 0o666 & ~mask
    assert [path.name for path in tmp_path.iterdir()] == ["vit.safetensors"]


@pytest.mark.slow
def test_onnx_computes_what_the_model_does_for_any_batch(trained, tmp_path):
    out = tmp_path / "vit.onnx"
    ended = call("export", f"checkpoint={trained.last}", "format=onnx", f"out={out}")
    assert ended.status == 0, ended.err
    tensors = {i.name: to_array(i) for i in onnx.load(out).graph.initializer}
    for name in SPARSE:
        assert_two_of_four(tensors[name])
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    network = load_trained(str(trained.last)).network
    for batch in (1, 5):
        images = torch.randn(batch, 3, 16, 16)
        with torch.no_grad():
            assert torch.allclose(logits(session, images), network(images), atol=1e-4)


def test_a_checkpoint_of_the_dense_tail_is_exported_dense_and_says_so(dense_tail, tmp_path):
    out = tmp_path / "vit.safetensors"
    ended = call("export", f"checkpoint={dense_tail.last}", f"out={out}")
    assert ended.status == 0, ended.err
    assert "dense tail; prune=true" in shown(ended.out, "layers")
    assert load_file(out)[SPARSE[0]].count_nonzero() == 384 * 96


def test_prune_applies_the_masks_to_a_checkpoint_of_the_dense_tail(dense_tail, tmp_path):
    out = tmp_path / "vit.safetensors"
    ended = call("export", f"checkpoint={dense_tail.last}", f"out={out}", "prune=true")
    assert shown(ended.out, "layers").startswith("4 2:4")
    for name in SPARSE:
        assert_two_of_four(load_file(out)[name].numpy())


@pytest.mark.slow
def test_a_run_with_sparse_activations_only_is_exported_dense_and_says_so(tmp_path):
    assert fit(tmp_path, "sparsity=act24", "trainer.max_epochs=1").status == 0
    last = tmp_path / "checkpoints" / "last.ckpt"
    ended = call("export", f"checkpoint={last}", "format=onnx")
    assert shown(ended.out, "layers") == "all dense: no layer of this run has 2:4 weights"
    session = onnxruntime.InferenceSession(last.with_suffix(".onnx"))
    trained = load_trained(str(last))
    images = torch.randn(3, 3, 16, 16)
    set_sparse(trained.network, False)
    with torch.no_grad():
        assert torch.allclose(logits(session, images), trained.network(images), atol=1e-4)


@pytest.mark.parametrize("verb", ["export", "validate"])
def test_a_file_that_is_no_checkpoint_is_named(verb, tmp_path, trained):
    cut = tmp_path / "cut.ckpt"
    cut.write_bytes(trained.last.read_bytes()[:10000])
    other = tmp_path / "other.ckpt"
    torch.save({"state_dict": {}}, other)
    assert f"checkpoint={cut} cannot be read" in call(verb, f"checkpoint={cut}").complaint
    assert "not written by `sparsetrain fit`" in call(verb, f"checkpoint={other}").complaint
    missing = call(verb, f"checkpoint={trained.last.parent}/lst.ckpt").complaint
    assert "does not exist" in missing
    assert "last.ckpt" in missing


def test_folders_are_built_by_timm_and_read_back(trained, tmp_path):
    import timm

    network: Any = load_trained(str(trained.last)).network
    images = torch.randn(2, 3, *network.patch_embed.img_size)
    ended = call("export", f"checkpoint={trained.last}", "format=dense", f"out={tmp_path / 'd'}")
    assert ended.status == 0, ended.err
    again = timm.create_model(f"local-dir:{tmp_path / 'd'}", pretrained=True).eval()
    torch.testing.assert_close(again(images), network(images))
    ended = call("export", f"checkpoint={trained.last}", "format=dense", f"out={tmp_path / 'd'}")
    assert f"out={tmp_path / 'd'} is not an empty folder: give another out=" in ended.complaint
    words = ["format=csr", f"out={tmp_path / 'c'}", "tensorrt=true"]
    ended = call("export", f"checkpoint={trained.last}", *words)
    assert shown(ended.out, "layers") == "4 as csr, density 0.500: values verified"


def test_a_packed_folder_is_read_by_the_same_model_and_by_timms(trained, tmp_path):
    import timm

    network: Any = load_trained(str(trained.last)).network
    words = ["format=packed", "dtype=int8", f"out={tmp_path / 'p'}"]
    ended = call("export", f"checkpoint={trained.last}", *words)
    assert ended.status == 0, ended.err
    assert shown(ended.out, "layers").startswith("4 as packed int8, density 0.")
    assert "sparsetrain.load_packed(model, " in shown(ended.out, "read")
    assert "timm.create_model" in shown(ended.out, "build")
    other: Any = load_trained(str(trained.last)).network
    timms: Any = timm.create_model(f"local-dir:{tmp_path / 'p'}")
    st.quantize(network, torch.int8)
    images = torch.randn(2, 3, *network.patch_embed.img_size)
    st.load_packed(other, tmp_path / "p")
    assert torch.equal(other(images), network(images))
    st.load_packed(timms, tmp_path / "p")
    torch.testing.assert_close(timms(images), network(images))


def test_a_checkpoint_of_the_dense_tail_is_packed_under_its_masks_alone(dense_tail, tmp_path):
    words = [f"checkpoint={dense_tail.last}", "format=packed", f"out={tmp_path / 'p'}"]
    assert "format=packed: all dense: the checkpoint is from" in call("export", *words).complaint
    ended = call("export", *words, "prune=true")
    assert shown(ended.out, "layers").startswith("4 as packed fp8, density 0.")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["format=bsr"], "format=bsr: blocks.0.mlp.fc1 has no blocks of its own: give block="),
        (["format=bsr", "block=64"], "block='64': give rows and columns, as block=64x64"),
        (["format=csr", "block=64x64"], "block=(64, 64) with format=csr: blocks are of bsr"),
        (["format=semi_structured"], "blocks.0.mlp.fc1.weight is 384×96, and torch's semi"),
        (["format=packed", "dtype=float16"], "dtype='float16' with format=packed: did you mean"),
        (["format=csr", "dtype=fp8"], "dtype='fp8' with format=csr: "),
        (["dtype=float16"], "dtype=float16 with format=safetensors: it is of folders"),
    ],
)
def test_words_that_do_not_fit_a_folder_are_one_line(trained, tmp_path, words, complaint):
    ended = call("export", f"checkpoint={trained.last}", f"out={tmp_path / 'o'}", *words)
    assert complaint in ended.complaint
