"""Which compiler is found, and what is said where none fits."""

from types import SimpleNamespace

import pytest
from native_helpers import (
    H100,
    executable,
    fake_nvcc,
    machine_is,
)

from sparsetrain import native
from sparsetrain.native import Machine


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
