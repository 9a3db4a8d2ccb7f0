"""A checkpoint runs no code, whatever its config names: one line instead, and nothing is made."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_helpers import call

from sparsetrain.cli.load import load_trained
from sparsetrain.cli.tracking import _checked_id
from sparsetrain.lightning import read_checkpoint


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture(scope="module")
def good(trained) -> dict[str, Any]:
    return torch.load(trained.last, weights_only=True)


@pytest.fixture
def marker(tmp_path):
    """Never made: asserted at the end of each test."""
    path = tmp_path / "ran"
    yield path
    assert not path.exists()


def written(folder: Path, checkpoint: dict[str, Any]) -> Path:
    torch.save(checkpoint, folder / "bad.ckpt")
    return folder / "bad.ckpt"


def calls(folder: Path, marker: Path) -> dict[str, dict[str, Any]]:
    """Targets that would make the marker."""
    (folder / "hubconf.py").write_text(f"open({str(marker)!r}, 'w')\ndef m(): return []\n")
    (folder / "x.pkl").write_bytes(pickle.dumps(Touch(marker)))
    hub = {"repo_or_dir": str(folder), "model": "m", "source": "local"}
    copied = {"src": str(folder / "hubconf.py"), "dst": str(marker)}
    touch = {"command": f"touch {marker}"}
    return {
        "hub": {"_target_": "torch.hub.load", **hub},
        "load": {"_target_": "torch.load", "f": str(folder / "x.pkl"), "weights_only": False},
        "save": {"_target_": "torch.save", "obj": 1, "f": str(marker)},
        "copy": {"_target_": "shutil.copyfile", **copied},
        "system": {"_target_": "os.system", **touch},
        "walked": {"_target_": "sparsetrain.native.find.os.system", **touch},
        "within": {"_target_": "sparsetrain.lightning.data.Digits.load.__globals__", **touch},
        "no name": {"_target_": ["os.system"], **touch},
        "partial": {"_target_": "os.system", "_partial_": True, **touch},
    }


def put(config: dict[str, Any], path: list[Any], value: Any) -> None:
    for key in path[:-1]:
        config = config[key]
    config[path[-1]] = value


PLACES = (
    ["model"],
    ["model", "options", "patch_size"],
    ["sparsity", "exclude"],
    ["sparsity", "weight"],
    ["data", "augment"],
    ["optimizer", "betas", 1],
    ["mix", "mixup"],
    ["callbacks", "mine"],
    ["trainer", "plugins"],
)


@pytest.mark.parametrize(
    "name", ["hub", "load", "save", "copy", "system", "walked", "within", "no name", "partial"]
)
def test_a_target_that_is_not_ours_is_refused_everywhere_in_a_checkpoint(
    good, tmp_path, marker, name
):
    target = calls(tmp_path, marker)[name]
    for place in PLACES:
        saved = copy.deepcopy(good["sparsetrain_config"])
        bad = {
            "state_dict": {},
            "sparsetrain_config": saved,
        }  # refused before weights are asked for
        put(bad["sparsetrain_config"]["config"], place, target)
        path = written(tmp_path, bad)
        with pytest.raises(ValueError, match="is none of sparsetrain's own targets") as error:
            load_trained(str(path))
        assert ".".join(str(k) for k in place if isinstance(k, str)) in str(error.value)
        assert repr(target["_target_"]) in str(error.value)
        assert f"checkpoint={path}" in str(error.value)


@pytest.mark.parametrize("verb", ["validate", "export"])
def test_a_command_refuses_it_in_one_line_with_the_fix(good, tmp_path, marker, verb):
    bad = copy.deepcopy(good)
    bad["sparsetrain_config"]["config"]["model"] = calls(tmp_path, marker)["copy"]
    complaint = call(verb, f"checkpoint={written(tmp_path, bad)}").complaint
    assert "model._target_='shutil.copyfile'" in complaint
    assert "allow_targets=[shutil.copyfile]" in complaint


def test_a_target_is_allowed_by_its_exact_name_on_the_command_line(good, tmp_path):
    ours = copy.deepcopy(good)
    ours["sparsetrain_config"]["config"]["callbacks"]["mine"] = {"_target_": "probe.PlantNaN"}
    path = written(tmp_path, ours)
    out = tmp_path / "out.safetensors"
    words = ["export", f"checkpoint={path}", f"out={out}"]
    assert "allow_targets=[probe.PlantNaN]" in call(*words).complaint
    assert "give names in full" in call(*words, "allow_targets=[probe]").complaint
    assert "probe.PlantNaN" in call(*words, "allow_targets=[probe.SaveMasks]").complaint
    ended = call(*words, "allow_targets=[probe.SaveMasks,probe.PlantNaN]")
    assert ended.status == 0, ended.err


def endless() -> list[Any]:
    values: list[Any] = []
    values.append(values)
    return values


@pytest.mark.parametrize(
    ("place", "value", "match"),
    [
        (["data", "root"], "${oc.env:HOME}", "data.root='.*' holds an interpolation"),
        (["mix"], "${oc.create:{_target_:os.system,command:ls}}", "mix='.*' holds an interpol"),
        (["mix", "_target_"], "${seed}", "mix._target_='.*' is none of .*: write its name out"),
        (["seed"], torch.zeros(1), "seed is a Tensor"),
        (["sparsity", "include"], endless(), "nested more than (32|64) deep"),
        (["model"], None, "its config has no model"),
        (["sparsity"], [], "its config has no sparsity"),
    ],
)
def test_a_config_that_fit_cannot_have_written_is_refused(good, tmp_path, place, value, match):
    bad = copy.deepcopy(good)
    put(bad["sparsetrain_config"]["config"], place, value)
    with pytest.raises(ValueError, match=match):
        load_trained(str(written(tmp_path, bad)))


@pytest.mark.parametrize(
    "word",
    [
        "+callbacks.x={_target_:torch.save,obj:1,f:MARKER}",
        "data._target_=torch.save",
        "hydra.searchpath=[file:///tmp]",
        "+callbacks@hydra.callbacks=ema",
        3,
    ],
)
def test_the_words_in_a_checkpoint_are_not_those_of_the_user(good, tmp_path, marker, word):
    bad = copy.deepcopy(good)
    word = word.replace("MARKER", str(marker)) if isinstance(word, str) else word
    bad["sparsetrain_config"]["overrides"].append(word)
    ended = call("validate", f"checkpoint={written(tmp_path, bad)}", "seed=1")
    assert ended.complaint


@pytest.mark.parametrize("name", ["hf-hub:timm/vit_tiny", "local-dir:/tmp/x", "../x", "os.system"])
def test_the_model_of_a_checkpoint_is_one_of_timms_own(good, tmp_path, name):
    bad = copy.deepcopy(good)
    bad["sparsetrain_config"]["config"]["model"]["name"] = name
    with pytest.raises(Exception, match="timm has no such model"):
        load_trained(str(written(tmp_path, bad)))


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("option", "value", "what"),
    [
        ("depth", 100_000, r"more parameters than the \d+ tensors in the file"),
        ("embed_dim", 400_000, r"a tensor of [\d,]+ values, and no such one is in the file"),
        ("mlp_ratio", 1e9, r"a tensor of [\d,]+ values"),
        ("class_token", True, None),
    ],
)
def test_a_model_that_is_larger_than_the_file_is_not_built(good, tmp_path, option, value, what):
    bad = copy.deepcopy(good)
    bad["sparsetrain_config"]["config"]["model"]["options"][option] = value
    path = str(written(tmp_path, bad))
    if what is None:
        load_trained(path)
        return
    with pytest.raises(Exception, match=what) as error:
        load_trained(path)
    assert not isinstance(error.value, MemoryError)


@pytest.mark.timeout(30)
def test_images_that_are_larger_than_the_files_are_not_prepared_for(good, tmp_path):
    bad = copy.deepcopy(good)
    bad["sparsetrain_config"]["config"]["model"]["img_size"] = 400_000
    complaint = call("validate", f"checkpoint={written(tmp_path, bad)}").complaint
    assert "is of another model: the model of its config has a tensor of " in complaint


@pytest.mark.parametrize("saved", ["../../x", "a" * 65, "a b", "ä", "", 3, ["a"]])
def test_the_id_of_a_wandb_run_in_a_checkpoint_is_one(saved):
    with pytest.raises(ValueError, match=r"^checkpoint=x: sparsetrain_wandb=.* is no id of a W&B"):
        _checked_id(saved, "x")
    assert [_checked_id(right, "x") for right in ("Ab-_9", None)] == ["Ab-_9", None]


def test_first_weights_are_neither_read_nor_fetched_again(good, tmp_path, marker):
    ours = copy.deepcopy(good)
    (tmp_path / "x.pth").write_bytes(pickle.dumps(Touch(marker)))
    options = ours["sparsetrain_config"]["config"]["model"]["options"]
    options |= {"pretrained": True, "checkpoint_path": str(tmp_path / "x.pth")}
    load_trained(str(written(tmp_path, ours)))


@pytest.mark.parametrize("by", ["pickle", "torch", "torch's old format"])
def test_what_has_to_be_unpickled_is_no_checkpoint(tmp_path, marker, by):
    checkpoint, path = {"state_dict": {}, "sparsetrain_config": Touch(marker)}, tmp_path / "x.ckpt"
    if by == "pickle":
        path.write_bytes(pickle.dumps(checkpoint, protocol=2))
    else:
        torch.save(checkpoint, path, _use_new_zipfile_serialization=by == "torch")
    with pytest.raises(ValueError, match="cannot be read"):
        load_trained(str(path))


def test_masks_in_a_checkpoint_are_checked(good, tmp_path):
    bad = copy.deepcopy(good)
    layers = bad["sparsetrain_state"]["layers"]
    name = next(name for name, layer in layers.items() if layer["mask"] is not None)
    layers[name]["mask"].fill_(255)
    complaint = call("export", f"checkpoint={written(tmp_path, bad)}").complaint
    assert name in complaint
    assert "does not keep two of every four" in complaint


@pytest.mark.parametrize(
    ("version", "fix"),
    [(3, "install a newer"), (0, "use the sparsetrain that wrote it"), ("1", "is a number")],
)
def test_a_checkpoint_of_another_format_says_what_to_do(good, tmp_path, version, fix):
    path = written(tmp_path, {**good, "sparsetrain_format": version})
    assert fix in call("validate", f"checkpoint={path}").complaint
    with pytest.raises(ValueError, match=fix):
        read_checkpoint(path)


def test_a_checkpoint_from_before_formats_loads(good, tmp_path):
    old = {key: value for key, value in good.items() if key != "sparsetrain_format"}
    assert old.keys() < good.keys()
    assert load_trained(str(written(tmp_path, old))).phase == "sparse"
