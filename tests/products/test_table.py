"""The measured table: written whole, read back equal, refused where it is broken or another's."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sparsetrain import native
from sparsetrain.native import Library
from sparsetrain.products import (
    Config,
    Entry,
    Key,
    Problem,
    Table,
    install,
    load_table,
    machine_key,
    native_configs,
    read_table,
    table_path,
    write_table,
)

KEY = Key("NVIDIA H200", "580.65.06", "2.11.0+cu130", "13.0", "3f2a-x86_64-cuda13.0-sm90a")
FORWARD = Problem(torch.bfloat16, 4096, 25216, 1024, "columns", transpose_out=True)
WIDE = Problem(torch.float16, 1024, 4096, 25216, "rows", wide=True)
NATIVE = Entry("native", Config("128x256", 2, 1, 8, True), 200.0, 300.0)
DENSE = Entry("dense", None, 10.0, 10.0)


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("SPARSETRAIN_CACHE", str(tmp_path))


@pytest.fixture
def machine(monkeypatch):
    """The machine of KEY, with a library."""
    library = Library(Path("/cache") / KEY.library / "library.so", ("90a",))
    monkeypatch.setattr(native, "load", lambda: library)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("sparsetrain.products.table.machine_key", lambda path: KEY)


def written(key=KEY):
    return write_table(Table(key).with_entry(FORWARD, NATIVE).with_entry(WIDE, DENSE))


def test_what_is_written_is_read_back_equal(tmp_path, machine):
    path = written()
    assert path.parent == tmp_path / "tables"
    assert [p.name for p in path.parent.iterdir()] == [path.name], "nothing unfinished is left"
    assert load_table() == Table(KEY, {FORWARD: NATIVE, WIDE: DENSE})


def test_the_file_can_be_read_by_people(machine):
    content = json.loads(written().read_text())
    assert content["key"]["gpu"] == "NVIDIA H200"
    assert content["entries"][0]["problem"]["dtype"] == "bfloat16"
    assert content["entries"][0]["entry"]["config"]["tile"] == "128x256"


def test_a_newer_measurement_takes_the_place_of_the_older():
    table = Table(KEY).with_entry(FORWARD, DENSE).with_entry(FORWARD, NATIVE)
    assert table.entries == {FORWARD: NATIVE}


@pytest.mark.parametrize("changed", ["gpu", "driver", "torch", "cuda", "library"])
def test_every_part_of_the_machine_has_a_table_of_its_own(machine, changed):
    other = replace(KEY, **{changed: "another"})
    written(other)
    assert table_path(other) != table_path(KEY)
    assert load_table() is None


def test_a_table_that_was_carried_here_is_refused(machine):
    there = written(replace(KEY, driver="535.1"))
    there.rename(table_path(KEY))
    with pytest.raises(ValueError, match=r"elsewhere \(driver '535.1' there, '580.65.06' here\)"):
        load_table()


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"format": 2}', '{"format": 1, "key": {}, "entries": []}'],
)
def test_a_broken_table_is_refused_with_what_to_do(machine, text):
    path = written()
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"broken .*remove {path} and run `python -m sparsetrain"):
        load_table()


@pytest.mark.parametrize(
    ("old", "new"), [("bfloat16", "int16"), ("native", "nativ"), ('"K"', '"k"')]
)
def test_an_entry_that_is_no_entry_is_refused(machine, old, new):
    path = written()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ValueError, match="the measured table is broken"):
        read_table(path, KEY)


def test_without_tables_cuda_is_not_started(machine, monkeypatch):
    monkeypatch.setattr(
        "sparsetrain.products.table.machine_key", lambda path: pytest.fail("started")
    )
    assert load_table() is None


def test_without_a_library_or_a_gpu_there_is_no_table(machine, monkeypatch):
    written()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert load_table() is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(native, "load", lambda: Library(reason="no nvcc"))
    assert load_table() is None


@pytest.fixture
def installed(monkeypatch):
    """A library with two tiles; the rows it is given."""
    rows = []
    namespace = torch.ops.sparsetrain
    tiles = torch.tensor([[256, 128], [128, 256]])
    monkeypatch.setattr(namespace, "_matmul24_tiles", lambda: tiles, raising=False)
    monkeypatch.setattr(namespace, "_matmul24_table", rows.append, raising=False)
    monkeypatch.setattr(torch._C, "_dispatch_has_kernel", lambda name: True)
    return rows


def test_the_library_gets_where_native_won_as_numbers(installed):
    assert install(native_configs(Table(KEY, {FORWARD: NATIVE, WIDE: DENSE})))
    assert installed[0].tolist() == [[0, 4096, 25216, 1024, 0, 1, 0, 1, 2, 1, 8, 1]]
    assert installed[0].dtype == torch.int64


def test_an_empty_table_replaces_the_one_before(installed):
    assert native_configs(None) == {}
    install({})
    assert installed[0].shape == (0, 12)


def test_a_tile_that_the_library_has_not_is_refused(installed):
    config = Config("64x64", 1, 1, 1, False)
    with pytest.raises(ValueError, match="tile '64x64': the library has 256x128, 128x256"):
        install({FORWARD: config})
    assert installed == []


def test_a_library_without_tables_is_left_alone(monkeypatch):
    monkeypatch.setattr(torch._C, "_dispatch_has_kernel", lambda name: False)
    assert not install({FORWARD: Config("128x256", 1, 1, 1, False)})


@pytest.mark.gpu
def test_the_key_of_a_gpu_has_its_name_and_driver():
    key = machine_key(Path("/cache/build/library.so"))
    assert key.gpu == torch.cuda.get_device_name()
    assert key.driver[0].isdigit()
    assert key.library == "build"
