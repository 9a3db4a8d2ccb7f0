"""Compiling the library: once, whole, and with an error that helps."""

import os
import shutil
import threading
import time
from pathlib import Path

import pytest
import torch
from native_helpers import (
    H100,
    build_in_cache,
    build_module,
    calls,
    fake_nvcc,
    machine_is,
)

from sparsetrain import native
from sparsetrain.native import Machine
from sparsetrain.native.find import LIBRARY, build_name, find_built, source_folder
from sparsetrain.native.toolkit import CompileError


def test_the_name_of_a_build_changes_with_any_byte_cuda_and_architecture():
    folder = source_folder()
    names = [build_name(folder, (13, 0), ("90a",))]
    names.append(build_name(folder, (13, 1), ("90a",)))
    names.append(build_name(folder, (13, 0), ("80", "90a")))
    (folder / "common" / "host.h").write_text("// shared!\n")
    names.append(build_name(folder, (13, 0), ("90a",)))
    (folder / "common" / "host.h").rename(folder / "common" / "guest.h")
    names.append(build_name(folder, (13, 0), ("90a",)))
    assert len(set(names)) == 5
    (folder / "README.md").write_text("not compiled\n")
    assert build_name(folder, (13, 0), ("90a",)) == names[-1]


def test_a_build_compiles_every_source_links_it_and_is_there_the_next_time(place, capfd):
    fake_nvcc(place)
    built = build_in_cache(("80", "90a"))
    assert built.path.read_text() == "binary\n"
    assert built.path.parent.parent == place / "cache" / "lib"
    cu, cpp, link = sorted(calls(place), key=lambda call: (" -shared" in call, ".cpp" in call))
    for call in (cu, cpp, link):
        assert "-gencode=arch=compute_80,code=sm_80 -gencode=arch=compute_90a,code=sm_90a" in call
    assert "-c flips24.cu" in cu
    assert "-DTORCH_TARGET_VERSION=0x020a000000000000" in cu
    assert "-c library.cpp" in cpp
    assert link.count(".o ") == 2
    assert "-cudart static" in link
    assert "[3/3] link" in built.log.read_text()
    said = capfd.readouterr().err
    assert "compiling the kernels for sm_80, sm_90a with CUDA 13.0" in said
    assert list(find_built()) == [built]
    assert build_in_cache(("80", "90a")) == built
    assert len(calls(place)) == 3
    assert capfd.readouterr().err == ""


def test_a_folder_is_taken_from_where_the_user_is(place, monkeypatch):
    fake_nvcc(place)
    monkeypatch.chdir(place)
    built = native.build(("90a",), native.find_toolkit(H100, ("90a",)), Path("out"))
    assert built.path.parent.parent == place / "out"
    assert built.path.is_file()


def test_a_build_leaves_nothing_beside_the_library(place):
    fake_nvcc(place)
    built = build_in_cache()
    names = {path.name for path in native.cache_folder().iterdir()}
    assert names - {f"{built.path.parent.name}.lock"} == {built.path.parent.name}
    assert {path.name for path in built.path.parent.iterdir()} == {LIBRARY, "build.log"}


def test_what_a_killed_build_left_is_removed_after_an_hour(place):
    fake_nvcc(place)
    old, new = (native.cache_folder() / f".building-{age}" for age in ("old", "new"))
    for folder in (old, new):
        (folder / "work").mkdir(parents=True)
    for path in (old / "work", old, new):
        os.utime(path, (time.time() - 4000, time.time() - 4000))
    build_in_cache()
    assert not old.exists()
    assert new.exists(), "its work folder was just written"


@pytest.mark.parametrize(
    ("cores", "archs", "jobs", "threads"),
    [(2, ("90a",), 2, None), (2, ("80", "89", "90a"), 1, 2), (16, ("80", "89", "90a"), 5, 3)],
)
def test_a_build_takes_the_cores_there_are(cores, archs, jobs, threads, place, monkeypatch):
    fake_nvcc(place)
    taken: list[int] = []
    run = build_module.run_all
    monkeypatch.setattr(build_module, "cores", lambda: cores)
    monkeypatch.setattr(
        build_module, "run_all", lambda *a, **more: taken.append(a[1]) or run(*a, **more)
    )
    build_in_cache(archs)
    assert taken == [jobs, 1], "of compiling, and of linking"
    wanted = [] if threads is None else [f"--threads={threads}"]
    for call in calls(place):
        found = [word for word in call.split() if word.startswith("--threads")]
        assert found == ([] if "-shared" in call else wanted)


def test_flags_of_the_environment_do_not_reach_the_compiler(place, monkeypatch):
    monkeypatch.setenv("NVCC_APPEND_FLAGS", "-O0")
    monkeypatch.setenv("NVCC_PREPEND_FLAGS", "-G")
    fake_nvcc(place, extra=f'echo "[$NVCC_PREPEND_FLAGS$NVCC_APPEND_FLAGS]" >> {place / "flags"}')
    build_in_cache()
    assert set((place / "flags").read_text().split()) == {"[]"}


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (OSError(28, "No space left on device"), "No space left"),
        (NotImplementedError(), "has no locks"),
    ],
)
@pytest.mark.parametrize("where", ["run_all", "FileLock"])
def test_a_folder_that_cannot_hold_the_build_is_named_with_its_fix(
    where, error, part, place, monkeypatch
):
    def refuse(*_, **__):
        raise error

    fake_nvcc(place)
    monkeypatch.setattr(build_module, where, refuse)
    machine_is(monkeypatch, H100)
    library = native.require()
    assert str(native.cache_folder()) in library.reason
    assert part in library.reason
    assert "set SPARSETRAIN_CACHE" in library.fix


def test_processes_that_want_the_same_library_compile_it_once(place, capfd):
    fake_nvcc(place, extra="sleep 0.2")
    os.symlink(shutil.which("sleep", path="/usr/bin:/bin") or "", place / "bin" / "sleep")
    results: list[native.Built] = []
    ranks = [threading.Thread(target=lambda: results.append(build_in_cache())) for _ in range(3)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert len(calls(place)) == 3, "two sources and the link"
    assert len(results) == 3
    assert len(set(results)) == 1
    assert "waiting for it" in capfd.readouterr().err


def test_what_does_not_compile_is_an_error_with_its_first_line_and_no_build(place):
    fake_nvcc(place, extra='echo "flips24.cu(1): error: no such word"; exit 2')
    with pytest.raises(CompileError, match=r"flips24\.cu\(1\): error: no such word") as error:
        build_in_cache()
    assert list(find_built()) == []
    log = Path(str(error.value).partition("all of it: ")[2].rstrip(")"))
    assert "no such word" in log.read_text()
    fake_nvcc(place)
    assert build_in_cache().path.is_file()


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("g++", r"no C\+\+ compiler"),
        ("torch", "torch is built without CUDA"),
        ("cache", "set SPARSETRAIN_CACHE"),
        ("sources", "has no kernels"),
    ],
)
def test_what_is_missing_is_named_with_its_fix(broken, message, place, monkeypatch):
    fake_nvcc(place)
    if broken == "g++":
        (place / "bin" / "g++").unlink()
    elif broken == "torch":
        (place / "torch" / "lib" / "libtorch_cuda.so").unlink()
    elif broken == "cache":
        (place / "file").touch()
        monkeypatch.setenv("SPARSETRAIN_CACHE", str(place / "file"))
    else:
        (source_folder() / "library.cpp").unlink()
    with pytest.raises(native.BuildError, match=message):
        build_in_cache()
    assert calls(place) == []


def test_the_cache_is_where_the_user_keeps_caches(place, monkeypatch):
    assert native.cache_folder() == place / "cache" / "lib"
    monkeypatch.delenv("SPARSETRAIN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "xdg"))
    assert native.cache_folder() == place / "xdg" / "sparsetrain" / "lib"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(place))
    assert native.cache_folder() == place / ".cache" / "sparsetrain" / "lib"


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_a_real_compiler_makes_a_library_that_loads(place, monkeypatch):
    monkeypatch.undo()
    package = place / "package"
    monkeypatch.setattr("sparsetrain.native.find.PACKAGE", package)
    torch_folder = place / "torch"
    shutil.rmtree(torch_folder)
    os.symlink(Path(torch.__file__).parent, torch_folder)
    if not (torch_folder / "lib" / "libtorch_cuda.so").is_file():
        pytest.skip("torch is built without CUDA")
    (package / "csrc" / "flips24.cu").write_text("__global__ void twice(int* x) { *x *= 2; }\n")
    toolkit = native.find_toolkit(Machine((), (0, 0)), ("90a",))
    built = native.build(("90a",), toolkit, place / "out")
    torch.ops.load_library(str(built.path))
    assert "0 bytes spill stores" in built.log.read_text()
