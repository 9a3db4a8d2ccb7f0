"""Every test here runs on an empty machine."""

import pytest
import torch
from native_helpers import (
    build_module,
    executable,
    load_module,
)


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
