"""Loading the library, and what a user sees of it."""

from pathlib import Path

import pytest
import torch
from native_helpers import (
    H100,
    build_in_cache,
    calls,
    fake_nvcc,
    load_module,
    machine_is,
)
from torch import nn

import sparsetrain
from sparsetrain import native
from sparsetrain.native import Library, Machine
from sparsetrain.native.find import LIBRARY, source_folder


def test_require_compiles_for_the_gpus_there_are_and_loads_that(place, monkeypatch):
    loaded = machine_is(monkeypatch, Machine(((9, 0), (8, 6), (7, 5)), (13, 0)))
    fake_nvcc(place)
    library = native.require()
    assert library.archs == ("80", "90a")
    assert loaded == [str(library.path)]
    assert native.require() == native.load() == library
    assert len(loaded) == 1


def test_a_build_is_loaded_without_a_compiler(place, monkeypatch):
    nvcc = fake_nvcc(place)
    built = build_in_cache()
    nvcc.unlink()
    loaded = machine_is(monkeypatch, H100)
    assert native.load() == Library(built.path, ("90a",))
    assert loaded == [str(built.path)]


def test_what_the_wheel_carries_comes_before_the_cache(place, monkeypatch):
    fake_nvcc(place)
    build_in_cache()
    toolkit = native.find_toolkit(H100, native.ARCHS)
    carried = native.build(tuple(native.ARCHS), toolkit, place / "package" / "prebuilt")
    machine_is(monkeypatch, H100)
    assert native.load().path == carried.path


@pytest.mark.parametrize("other", ["card", "driver", "sources"])
def test_a_build_for_something_else_is_not_loaded(other, place, monkeypatch):
    fake_nvcc(place)
    build_in_cache()
    machine = H100
    if other == "card":
        machine = Machine(((8, 0),), (13, 0))
    elif other == "driver":
        machine = Machine(((9, 0),), (12, 8))
    else:
        (source_folder() / "flips24.cu").write_text("// another kernel\n")
    loaded = machine_is(monkeypatch, machine)
    library = native.load()
    assert library.path is None
    assert library.reason == "the kernel library is not built"
    assert loaded == []


@pytest.mark.parametrize(
    ("gpus", "reason"),
    [
        ((), "no NVIDIA GPU"),
        (((7, 5),), "no kernels for sm_75"),
        (((9, 0),), "the kernel library is not built"),
    ],
)
def test_load_says_why_there_is_no_library(gpus, reason, monkeypatch):
    machine_is(monkeypatch, Machine(gpus, (13, 0)))
    assert native.load().reason == reason


def test_a_torch_without_cuda_looks_for_nothing(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(load_module, "look", None)
    assert native.load().reason == "torch is built without CUDA"
    assert native.require() == native.load()


def test_a_file_that_is_no_library_is_named_with_its_fix(place, monkeypatch):
    fake_nvcc(place)
    built = build_in_cache()
    monkeypatch.setattr(load_module, "look", lambda: H100)
    library = native.load()
    assert library.path is None
    assert library.reason == "the kernel library does not load"
    assert f"remove {built.path.parent}" in library.fix


def test_a_build_that_does_not_load_is_passed_over_for_one_that_does(place, monkeypatch):
    fake_nvcc(place)
    builds = [build_in_cache(archs) for archs in (("80", "90a"), ("90a",))]
    broken, good = sorted((str(built.path) for built in builds), reverse=True)
    machine_is(monkeypatch, H100)

    def open_library(path):
        if path != good:
            raise OSError("no ELF header")

    monkeypatch.setattr(torch.ops, "load_library", open_library)
    assert str(native.load().path) == good
    good = ""
    monkeypatch.setattr(load_module, "_library", None)
    assert f"remove {Path(broken).parent}" in native.load().fix, "the first that was tried"


def test_a_cache_that_cannot_be_read_is_no_cache(place, monkeypatch):
    is_dir = Path.is_dir

    def refuse(path):
        if path == native.cache_folder():
            raise PermissionError(13, "Permission denied", str(path))
        return is_dir(path)

    monkeypatch.setattr(Path, "is_dir", refuse)
    machine_is(monkeypatch, H100)
    library = native.load()
    assert library.reason == "the cache of builds cannot be read"
    assert str(place / "cache") in library.fix
    assert "set SPARSETRAIN_CACHE" in library.fix


def test_a_user_without_a_home_folder_has_no_cache(place, monkeypatch):
    def refuse():
        raise RuntimeError("Could not determine home directory.")

    for name in ("SPARSETRAIN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", refuse)
    fake_nvcc(place)
    loaded = machine_is(monkeypatch, H100)
    assert native.load().reason == "no home folder to keep builds in"
    assert native.require() == native.load()
    toolkit = native.find_toolkit(H100, ("90a",))
    carried = native.build(("90a",), toolkit, place / "package" / "prebuilt")
    assert native.require().path == carried.path, "the wheel's own needs no cache"
    assert loaded == [str(carried.path)]


def test_without_a_compiler_require_says_so_and_finds_one_later(place, monkeypatch):
    machine_is(monkeypatch, H100)
    library = native.require()
    assert library.reason == "no CUDA compiler (nvcc) found"
    assert "pip install" in library.fix
    fake_nvcc(place)
    assert native.require().path is not None


def test_what_does_not_compile_is_tried_once_in_a_process(place, monkeypatch):
    machine_is(monkeypatch, H100)
    fake_nvcc(place, extra="exit 2")
    library = native.require()
    assert "do not compile" in library.reason
    count = len(calls(place))
    assert native.require() == library
    assert len(calls(place)) == count


def converted(monkeypatch, library: Library) -> sparsetrain.Report:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(native, "look", lambda: H100)
    monkeypatch.setattr(native, "require", lambda: library)
    monkeypatch.setattr(native, "load", lambda: library)
    return sparsetrain.sparsify(nn.Sequential(nn.Linear(8, 8)), sparsetrain.Sparsity())


def test_on_a_gpu_without_kernels_the_report_says_why_and_what_to_do(monkeypatch):
    report = converted(monkeypatch, Library(reason="no nvcc", fix="install it"))
    assert report.converted[0].engine == "masked: no nvcc"
    note = report.kernels
    assert "no nvcc" in note
    assert "install it" in note


def test_on_a_gpu_with_kernels_the_report_says_what_they_do(place, monkeypatch):
    monkeypatch.setattr(torch._C, "_dispatch_has_kernel_for_dispatch_key", lambda *op: False)
    report = converted(monkeypatch, Library(place / LIBRARY, ("90a",)))
    assert report.converted[0].engine == "masked: the kernel library has no products"
    assert report.kernels == ""
