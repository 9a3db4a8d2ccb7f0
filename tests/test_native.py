"""The kernel library: what is found, built and loaded. A script stands in for nvcc."""

import importlib
import os
import shutil
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import sparsetrain
from sparsetrain import native
from sparsetrain.native import Library, Machine
from sparsetrain.native.find import LIBRARY, build_name, find_built, source_folder
from sparsetrain.native.machine import covers, serves
from sparsetrain.native.toolkit import CompileError

H100 = Machine(((9, 0),), (13, 0))
NVCC = """\
#!/bin/sh
if [ "$1" = --version ]; then echo "Cuda compilation tools, release {cuda}, V{cuda}.88"; exit; fi
echo "$@" >> {calls}
{extra}
while [ $# -gt 0 ]; do if [ "$1" = -o ]; then echo binary > "$2" || exit 1; fi; shift; done
"""

# `sparsetrain.native.build` is the function; these are the modules.
build_module = importlib.import_module("sparsetrain.native.build")
load_module = importlib.import_module("sparsetrain.native.load")


@pytest.fixture(autouse=True)
def place(monkeypatch, tmp_path):
    """An empty machine around a package of two kernels: no compiler but bin/nvcc, no cache."""
    package = tmp_path / "package"
    (package / "csrc" / "common").mkdir(parents=True)
    (package / "csrc" / "library.cpp").write_text("// registers\n")
    (package / "csrc" / "flips24.cu").write_text("// a kernel\n")
    (package / "csrc" / "common" / "host.h").write_text("// shared\n")
    torch_folder = tmp_path / "torch"
    (torch_folder / "lib").mkdir(parents=True)
    (torch_folder / "lib" / "libtorch_cuda.so").touch()
    monkeypatch.setattr("sparsetrain.native.find.PACKAGE", package)
    monkeypatch.setattr("sparsetrain.native.toolkit.USUAL", tmp_path / "nowhere")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(build_module, "_torch", lambda: torch_folder)
    monkeypatch.setattr(load_module, "_library", None)
    monkeypatch.setattr(load_module, "_compiles", True)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    (tmp_path / "bin").mkdir()
    executable(tmp_path / "bin" / "g++", "#!/bin/sh\n")
    for name in ("CUDA_HOME", "CUDA_PATH", "NVCC_CCBIN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("SPARSETRAIN_CACHE", str(tmp_path / "cache"))
    return tmp_path


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def fake_nvcc(place: Path, folder="bin", cuda="13.0", extra="") -> Path:
    text = NVCC.format(cuda=cuda, calls=place / "calls", extra=extra)
    return executable(place / folder / "nvcc", text)


def calls(place: Path) -> list[str]:
    return (place / "calls").read_text().splitlines() if (place / "calls").exists() else []


def machine_is(monkeypatch, machine: Machine) -> list[str]:
    """What the driver says; returns the list of libraries that are loaded from now on."""
    loaded: list[str] = []
    monkeypatch.setattr(load_module, "look", lambda: machine)
    monkeypatch.setattr(torch.ops, "load_library", loaded.append)
    return loaded


def build_in_cache(archs=("90a",)) -> native.Built:
    return native.build(archs, native.find_toolkit(H100, archs), native.cache_folder())


# The GPUs


@pytest.mark.parametrize(
    ("arch", "gpus"),
    [
        ("80", [(8, 0), (8, 6), (8, 9)]),
        ("89", [(8, 9)]),
        ("90a", [(9, 0)]),
        ("100a", [(10, 0)]),
        ("120", [(12, 0), (12, 1)]),
    ],
)
def test_code_runs_on_the_gpus_that_cuda_promises(arch, gpus):
    every = [(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (10, 3), (12, 0), (12, 1)]
    assert [gpu for gpu in every if serves(arch, gpu)] == gpus


def test_each_gpu_gets_its_best_architecture_once():
    assert native.archs_for([(9, 0), (8, 6), (8, 9), (9, 0)]) == ("80", "89", "90a")
    assert native.archs_for([(7, 5)]) == ()


def test_an_old_card_beside_the_one_that_trains_is_no_obstacle():
    assert covers(("90a",), [(7, 5), (9, 0)])
    assert not covers(("90a",), [(8, 0), (9, 0)])
    assert not covers(("90a",), [(7, 5)])


class FakeNvml:
    """Two GPUs, and one that this process may not use."""

    def nvmlInit_v2(self):
        return 0

    def nvmlShutdown(self):
        return 0

    def nvmlSystemGetCudaDriverVersion_v2(self, version):
        version._obj.value = 12080
        return 0

    def nvmlDeviceGetCount_v2(self, count):
        count._obj.value = 3
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index, handle):
        handle._obj.value = index + 1
        return 4 if index == 1 else 0

    def nvmlDeviceGetCudaComputeCapability(self, handle, major, minor):
        major._obj.value, minor._obj.value = (8, 9) if handle.value == 1 else (9, 0)
        return 0


def test_the_driver_is_asked_for_gpus_and_cuda(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda name: FakeNvml())
    assert native.look() == Machine(((8, 9), (9, 0)), (12, 8))


def test_a_machine_without_a_driver_has_no_gpus(monkeypatch):
    def refuse(name):
        raise OSError("no such library")

    monkeypatch.setattr("ctypes.CDLL", refuse)
    assert native.look() == Machine((), (0, 0))


# The compiler


def test_cuda_home_comes_before_path_and_path_before_the_wheels(place, monkeypatch):
    site = place / "site" / "nvidia"
    spec = SimpleNamespace(submodule_search_locations=[str(site)])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    for file in (
        "nvvm/bin/cicc",
        "include/crt/host_config.h",
        "include/cuda_runtime.h",
        "include/cccl/nv/target",
    ):
        executable(site / "cu13" / file, "")
    fake_nvcc(place, "site/nvidia/cu13/bin", "13.2")
    found = native.find_toolkit(H100, ("90a",))
    assert (found.cuda, found.where) == ((13, 2), "NVIDIA's wheels")
    assert found.libraries == site / "cu13" / "lib"
    fake_nvcc(place, "bin", "13.1")
    assert native.find_toolkit(H100, ("90a",)).where == "PATH"
    fake_nvcc(place, "home/bin", "13.0")
    monkeypatch.setenv("CUDA_HOME", str(place / "home"))
    found = native.find_toolkit(H100, ("90a",))
    assert (found.cuda, found.where, found.libraries) == ((13, 0), "CUDA_HOME", None)


def test_a_compiler_that_does_not_fit_is_passed_over_and_named(place, monkeypatch):
    fake_nvcc(place, "home/bin", "11.8")
    monkeypatch.setenv("CUDA_HOME", str(place / "home"))
    fake_nvcc(place, "bin", "12.4")
    toolkit = native.find_toolkit(H100, ("80", "89"))
    assert toolkit.cuda == (12, 4)
    nvcc = place / "home" / "bin" / "nvcc"
    assert toolkit.where == f"PATH; {nvcc} is CUDA 11.8, too old for sm_80, sm_89"


def test_a_cuda_home_without_a_compiler_is_named(place, monkeypatch, capfd):
    monkeypatch.setenv("CUDA_HOME", str(place / "home"))
    with pytest.raises(native.BuildError, match=r"CUDA_HOME=\S+/home has no bin/nvcc; pip install"):
        native.find_toolkit(H100, ("90a",))
    fake_nvcc(place)
    machine_is(monkeypatch, H100)
    assert native.require().path is not None
    assert f"CUDA_HOME={place / 'home'} has no bin/nvcc" in capfd.readouterr().err


@pytest.mark.parametrize("cuda", [None, "13.0"])
def test_a_driver_of_cuda_12_is_not_answered_with_the_wheels_of_cuda_13(cuda, place):
    if cuda is not None:
        fake_nvcc(place, cuda=cuda)
    with pytest.raises(
        native.BuildError, match=r"from 12\.0 up to 12\.x and set CUDA_HOME"
    ) as error:
        native.find_toolkit(Machine(((9, 0),), (12, 4)), ("90a",))
    assert "pip install" not in error.value.fix


def test_without_a_fitting_compiler_the_error_says_what_was_found_and_what_to_install(place):
    with pytest.raises(native.BuildError, match=r"pip install 'sparsetrain\[build\]'") as error:
        native.find_toolkit(H100, ("90a",))
    assert error.value.reason == "no CUDA compiler (nvcc) found"
    fake_nvcc(place, cuda="13.0")
    with pytest.raises(native.BuildError, match=r"is CUDA 13\.0, but the driver serves 12\.8"):
        native.find_toolkit(Machine(((9, 0),), (12, 8)), ("90a",))
    fake_nvcc(place, cuda="12.4")
    with pytest.raises(native.BuildError, match=r"CUDA 12\.4, too old for sm_100a.*from 12\.8"):
        native.find_toolkit(Machine(((10, 0),), (13, 0)), ("100a",))
    executable(place / "bin" / "nvcc", "#!/bin/sh\nexit 1\n")
    with pytest.raises(native.BuildError, match="does not run"):
        native.find_toolkit(H100, ("90a",))


def test_a_compiler_from_a_wheel_names_the_wheels_that_it_lacks(place, monkeypatch):
    spec = SimpleNamespace(submodule_search_locations=[str(place / "nvidia")])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    executable(place / "nvidia" / "cu13" / "nvvm" / "bin" / "cicc", "")
    fake_nvcc(place, "nvidia/cu13/bin")
    missing = "nvidia-cuda-crt, nvidia-cuda-runtime, nvidia-cuda-cccl"
    with pytest.raises(native.BuildError, match=f"lacks the wheels {missing}"):
        native.find_toolkit(H100, ("90a",))


def test_an_older_compiler_leaves_out_the_architectures_it_does_not_know(place):
    fake_nvcc(place, cuda="12.4")
    toolkit = native.find_toolkit(Machine((), (0, 0)), native.ARCHS)
    assert toolkit.split(native.ARCHS) == (("80", "89", "90a"), ("100a", "120"))


# The build


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
    commands: list[list[str]] = []
    run = build_module._run
    monkeypatch.setattr(build_module, "_cores", lambda: cores)
    monkeypatch.setattr(build_module, "_run", lambda *a: commands.append(a[0]) or run(*a))
    build_in_cache(archs)
    assert f"-j{jobs}" in commands[0]
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
@pytest.mark.parametrize("where", ["_run", "FileLock"])
def test_a_folder_that_cannot_hold_the_build_is_named_with_its_fix(
    where, error, part, place, monkeypatch
):
    def refuse(*_):
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
        ("ninja", "pip install ninja"),
        ("torch", "torch is built without CUDA"),
        ("cache", "set SPARSETRAIN_CACHE"),
        ("sources", "has no kernels"),
    ],
)
def test_what_is_missing_is_named_with_its_fix(broken, message, place, monkeypatch):
    fake_nvcc(place)
    if broken == "g++":
        (place / "bin" / "g++").unlink()
    elif broken == "ninja":
        monkeypatch.setattr("sysconfig.get_path", lambda name: str(place))
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


# Loading


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


# What a user sees


def converted(monkeypatch, library: Library) -> sparsetrain.Report:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
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
    report = converted(monkeypatch, Library(place / LIBRARY, ("90a",)))
    assert report.converted[0].engine.startswith("masked: sparsify kernels loaded")
    assert report.kernels == ""
