"""scripts/check_library.py: what it reads of a compiler's log."""

import importlib
import shutil
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"

LOG = """\
ptxas info    : (C7514) Potential Performance Loss: wgmma.mma_async instructions are serialized \
due to non wgmma instructions reading accumulators in the function '_ZN11sparsetrain7productEi'
ptxas info    : Compiling entry function '_ZN11sparsetrain7productEi' for 'sm_90a'
ptxas info    : Function properties for _ZN11sparsetrain7productEi
    8 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 168 registers, used 3 barriers, 16 bytes smem
"""


@pytest.fixture
def check_library(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    yield importlib.import_module("check_library")
    sys.modules.pop("check_library")


@pytest.mark.skipif(shutil.which("c++filt") is None, reason="needs binutils")
def test_a_kernel_whose_products_the_compiler_serializes_is_named(check_library):
    (line,) = check_library.losses(LOG)
    assert line.startswith("product: wgmma.mma_async instructions are serialized")
    (kernel,) = check_library.kernels(LOG)
    assert (kernel.name, kernel.registers, kernel.spills, kernel.shared) == ("product", 168, 4, 16)
    assert check_library.losses(LOG[LOG.index("ptxas info    : Compiling") :]) == []
