"""How many cores a process counts as its own."""

import os

import pytest

from sparsetrain import cores as module
from sparsetrain.cores import cores, thread_limits


@pytest.fixture
def eight_of_many(monkeypatch, tmp_path):
    """Eight cores of a machine of 64; the quota of its container, none yet, is the file."""
    quota = tmp_path / "cpu.max"
    monkeypatch.setattr(module, "QUOTA", quota)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    return quota


def test_a_process_counts_the_cores_that_it_may_use(eight_of_many, monkeypatch):
    assert cores() == 8
    monkeypatch.delattr(os, "sched_getaffinity")
    assert cores() == 64


@pytest.mark.parametrize(
    ("quota", "count"),
    [("max 100000", 8), ("300000 100000", 3), ("150000 100000", 2), ("50000 100000", 1)],
)
def test_a_container_counts_its_quota(eight_of_many, quota, count):
    eight_of_many.write_text(f"{quota}\n")
    assert cores() == count


@pytest.mark.parametrize(("processes", "share"), [(1, "8"), (3, "2"), (20, "1")])
def test_processes_beside_each_other_share_the_cores(eight_of_many, monkeypatch, processes, share):
    counts = ("OMP_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS")
    for name in (*counts, "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    sleep = {"OMP_WAIT_POLICY": "PASSIVE"}
    assert thread_limits(processes) == {**dict.fromkeys(counts, share), **sleep}
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert thread_limits(processes)["OMP_NUM_THREADS"] == "5", "the user's own word"
