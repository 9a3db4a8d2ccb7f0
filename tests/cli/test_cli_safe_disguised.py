"""Values that are not what they look like: dicts whose `items` lies, lists that hold each other."""

import collections
import io
import json
import os
import tarfile
from typing import Any

import pytest
import torch

from sparsetrain.cli.check import check
from sparsetrain.cli.load import load_trained
from sparsetrain.lightning import AtomicCheckpointIO, read_checkpoint
from sparsetrain.lightning.data.folders import FolderSource, files_below
from sparsetrain.lightning.data.hf import check_names
from sparsetrain.lightning.data.shards import index_shard
from sparsetrain.plain import plain

BUILD = "sparsetrain.lightning.build_network"
VIT = {"_target_": BUILD, "name": "vit_tiny_patch16_224", "img_size": 224, "num_classes": 10}


class Disguised(dict):
    """Unpickled, by torch.load(weights_only=True) too, an OrderedDict whose `items()` is empty."""

    def __init__(self, held):
        super().__init__()
        self.held = held

    def __reduce__(self):
        return collections.OrderedDict, (), {"items": set}, None, iter(self.held.items())


def slow(value):
    return pytest.param(value, marks=pytest.mark.slow)


def bomb():
    held = ["lol"]
    for _ in range(9):
        held = [held] * 8
    return held


def config(**changed):
    nodes = {"model": VIT, "sparsity": {"_target_": "sparsetrain.Sparsity"}}
    nodes |= {name: {} for name in ("data", "optimizer", "mix", "trainer")}
    return {**nodes, **changed}


def saved(folder, values, **more):
    held = {"state_dict": {}, "sparsetrain_config": {"config": values, "overrides": []}, **more}
    torch.save(held, folder / "bad.ckpt")
    return str(folder / "bad.ckpt")


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """Looking up an address is an error, and so is a file that was made."""
    monkeypatch.setattr("socket.getaddrinfo", lambda *_: pytest.fail("it reached for the network"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_dict_whose_items_lie_is_read_as_what_it_holds(nowhere):
    target = {"_target_": "numpy.testing.runstring", "_args_": ["open('ran', 'w')", {}]}
    path = saved(nowhere, Disguised(config(model=target)))
    with pytest.raises(ValueError, match=r"numpy\.testing\.runstring' is none of sparset"):
        load_trained(path)
    assert not (nowhere / "ran").exists()
    assert type(read_checkpoint(path)["sparsetrain_config"]["config"]) is collections.OrderedDict
    again = AtomicCheckpointIO().load_checkpoint(path, weights_only=True)
    assert "items" not in vars(again["sparsetrain_config"]["config"])


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ({"_target_": BUILD, "_args_": ["vit_tiny_patch16_224", 224, 10]}, "model._args_"),
        (VIT | {"options": {"act_layer": VIT}}, "model.options.act_layer._target_"),
        ({"_target_": "sparsetrain.lightning.wandb_logger", "project": "x"}, "model._target_"),
        ({"_target_": "sparsetrain.lightning.AdamW", "lr": 1.0}, "model._target_"),
        (VIT | {"_partial_": True}, "model._partial_"),
    ],
    ids=["arguments", "nested", "logger", "optimizer", "partial"],
)
def test_a_model_is_made_by_its_own_target_alone(nowhere, model, path):
    with pytest.raises(ValueError, match=rf"{path}=.* has no place there"):
        load_trained(saved(nowhere, config(model=model)))
    assert [file.name for file in nowhere.iterdir()] == ["bad.ckpt"]


@pytest.mark.timeout(30)
@pytest.mark.parametrize("where", [slow("sparsetrain_format"), "target", slow("seed")])
def test_lists_that_hold_each_other_without_end_are_refused_at_once(nowhere, where):
    values = config(seed=bomb()) if where == "seed" else config()
    if where == "target":
        values["model"] = {"_target_": bomb()}
    more = {"sparsetrain_format": bomb()} if where == "sparsetrain_format" else {}
    with pytest.raises(ValueError, match="holds more than 1,000,000 values"):
        read_checkpoint(saved(nowhere, values, **more))


def test_what_is_nested_too_deep_or_of_another_type_is_refused():
    deep = []
    for _ in range(100):
        deep = [deep]
    with pytest.raises(ValueError, match=r"x: .* is nested more than 64 deep"):
        plain(deep, "x")
    with pytest.raises(ValueError, match=r"^x: a\[0\] is a Counter: a file of ours holds tensors"):
        plain({"a": [collections.Counter()]}, "x")


def test_a_state_dict_keeps_its_versions_and_its_tensors():
    state: Any = torch.nn.BatchNorm1d(2).state_dict()
    copy = plain(state, "x")
    assert copy._metadata == state._metadata
    assert all(copy[name].data_ptr() == tensor.data_ptr() for name, tensor in state.items())


@pytest.mark.timeout(30)
def test_a_sweep_in_a_checkpoints_words_is_no_word_of_a_recipe(nowhere, monkeypatch):
    from sparsetrain.cli.validate import _words_of_the_run

    path = saved(nowhere, config())
    held = torch.load(path, weights_only=True)
    held["sparsetrain_config"]["overrides"] = ["seed=range(0,100000000000)"]
    torch.save(held, path)
    with pytest.raises(ValueError, match="in its overrides is no word of a recipe"):
        _words_of_the_run(path)
    assert check(["recipe=vit_tiny_24", "seed=3"]).seed == 3


# Data


@pytest.mark.timeout(30)
def test_links_that_lead_back_are_walked_once_and_a_pipe_is_not_waited_for(tmp_path):
    folder = tmp_path / "set" / "cat"
    folder.mkdir(parents=True)
    (folder / "a.jpg").write_bytes(b"x")
    for name in ("l1", "l2"):
        (folder / name).symlink_to(".")
    assert list(files_below(folder)) == ["a.jpg"]
    os.mkfifo(folder / "b.jpg")
    source = FolderSource(tmp_path / "set")
    with pytest.raises(ValueError, match=r"b\.jpg is no regular file: remove it"):
        source.read(1)


@pytest.mark.timeout(30)
@pytest.mark.parametrize(("size", "words"), [(b"\xfe\x00", "negative size")])
def test_a_shard_whose_member_has_a_negative_size_is_refused(tmp_path, size, words):
    header = bytearray(tarfile.TarInfo("a.txt").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 10 + size
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    path = tmp_path / "bad.tar"
    path.write_bytes(bytes(header) + bytes(10240))
    with pytest.raises(ValueError, match=words):
        index_shard(path)


@pytest.mark.timeout(30)
def test_a_shard_with_a_sparse_member_is_refused(tmp_path):
    sparse = {"major": "0", "minor": "1", "name": "a.cls", "map": "0,1", "size": str(3 << 30)}
    member = tarfile.TarInfo("a.cls")
    member.size, member.pax_headers = 1, {f"GNU.sparse.{k}": v for k, v in sparse.items()}
    with tarfile.open(tmp_path / "bad.tar", "w", format=tarfile.PAX_FORMAT) as shard:
        shard.addfile(member, io.BytesIO(b"1"))
    with pytest.raises(ValueError, match=r"a\.cls is a sparse file"):
        index_shard(tmp_path / "bad.tar")


@pytest.mark.parametrize("name", ["/etc/x.arrow", "../x.arrow", "http://evil.example/x.arrow", 3])
def test_a_data_set_on_disk_names_no_file_outside_its_folder(tmp_path, name):
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    with pytest.raises(ValueError, match="which is outside its folder"):
        check_names(tmp_path)
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": [name]}))
    with pytest.raises(ValueError, match="which is outside its folder"):
        check_names(tmp_path)
