"""The kernel library: found, built where there is none, loaded.

Loading it registers CUDA kernels that take the place of the plain-PyTorch reference for CUDA
tensors; the schemas and fakes are those of sparsetrain/ops. It is built against LibTorch's stable
ABI, so one file serves every torch from 2.10 on. Where it is not loaded, `Library.reason` says why
and `Library.fix` what to do.
"""

from sparsetrain.native.build import build
from sparsetrain.native.find import Built, cache_folder, source_folder
from sparsetrain.native.load import Library, load, require
from sparsetrain.native.machine import ARCHS, Machine, archs_for, dotted, look, sm
from sparsetrain.native.toolkit import BuildError, Toolkit, find_toolkit
from sparsetrain.native.trust import make_folder

__all__ = [
    "ARCHS",
    "BuildError",
    "Built",
    "Library",
    "Machine",
    "Toolkit",
    "archs_for",
    "build",
    "cache_folder",
    "dotted",
    "find_toolkit",
    "load",
    "look",
    "make_folder",
    "require",
    "sm",
    "source_folder",
]
