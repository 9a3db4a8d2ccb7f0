"""Checkpoints of format 1 are validated, exported and trained on."""

import pytest
import torch
from cli_helpers import call, fit, shown
from safetensors.torch import load_file

from sparsetrain.reference.masks24 import unpack_bits

FC1 = "network.blocks.0.mlp.fc1"


@pytest.fixture(scope="module")
def old(trained, tmp_path_factory):
    """The last checkpoint of the run as format 1 stored it."""
    checkpoint = torch.load(trained.last, weights_only=True)
    del checkpoint["sparsetrain_format"]
    saved = checkpoint["sparsetrain_config"]
    sparsity = saved["config"]["sparsity"]
    del sparsity["selection"]
    sparsity["weight"]["rule"] = "transposable"
    saved["overrides"].append("sparsity.weight.rule=transposable")
    state = checkpoint["sparsetrain_state"]
    state["masks_step"] = next(iter(state["layers"].values()))["masks_step"]
    for name, layer in state["layers"].items():
        state["layers"][name] = {
            "mask": layer["mask"],
            "scale": layer["scale"],
            "sparse": layer["phase"] == "sparse",
        }
    path = tmp_path_factory.mktemp("old") / "last.ckpt"
    torch.save(checkpoint, path)
    return path


def test_it_is_validated_on_its_data_and_on_other(old):
    for words in ([], ["data.batch_size=64"]):
        ended = call("validate", f"checkpoint={old}", *words)
        assert ended.status == 0, ended.err
        assert shown(ended.out, "density") == "0.500 (sparse)"


def test_it_is_exported_under_the_masks_that_it_holds(old, tmp_path):
    out = tmp_path / "vit.safetensors"
    ended = call("export", f"checkpoint={old}", f"out={out}")
    assert ended.status == 0, ended.err
    checkpoint = torch.load(old, weights_only=True)
    weight = checkpoint["state_dict"][f"{FC1}.weight"]
    mask = checkpoint["sparsetrain_state"]["layers"][FC1]["mask"]
    kept = unpack_bits(mask, weight.shape[1])
    assert torch.equal(load_file(out)[f"{FC1.removeprefix('network.')}.weight"], weight * kept)


@pytest.mark.slow
def test_training_goes_on_from_it_as_from_todays(trained, old, tmp_path):
    runs = {"old": old, "new": trained.last}
    # Masks are due in the middle of the third epoch; the last step is dense.
    words = ["trainer.max_epochs=3", "sparsity.schedule.mask_every=5"]
    words += ["sparsity.schedule.dense_tail=0.1", "logger=csv", "trainer.limit_val_batches=1"]
    for name, checkpoint in runs.items():
        ended = fit(tmp_path / name, f"checkpoint={checkpoint}", *words)
        assert ended.status == 0, ended.err
    old_run, new_run = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)
        for name in runs
    )
    assert new_run["global_step"] == 12
    for name, weight in new_run["state_dict"].items():
        assert torch.equal(old_run["state_dict"][name], weight), name
    layer, expected = (run["sparsetrain_state"]["layers"][FC1] for run in (old_run, new_run))
    assert torch.equal(layer.pop("mask"), expected.pop("mask"))
    assert layer == expected
    assert (layer["phase"], layer["step"], layer["masks_step"]) == ("dense_tail", 12, 10)
