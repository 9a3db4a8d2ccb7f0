"""Tests marked `gpu` are left out where there is no CUDA device; the heading says so.

Files named *_on_gpu.py have no others, and half of all tests: they are not even read there.
"""

import gc
import sys
from collections.abc import Iterator

import pytest
import torch

collect_ignore_glob = [] if torch.cuda.is_available() else ["*_on_gpu.py"]


@pytest.fixture(autouse=True)
def _nothing_waits_for_a_first_step() -> Iterator[None]:
    """Models of a test that wait for their first step, and keep code from being compiled, go."""
    yield
    check = sys.modules.get("sparsetrain.nn.check")
    if check is not None and check._waiting:
        gc.collect()


def pytest_report_header() -> str | None:
    if torch.cuda.is_available():
        return None
    return "there is no CUDA device: tests marked gpu are deselected"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    on_gpu = [item for item in items if "gpu" in item.keywords]
    config.hook.pytest_deselected(items=on_gpu)
    items[:] = [item for item in items if "gpu" not in item.keywords]
