"""Which GPUs a machine has, and which architectures serve them."""

import pytest

from sparsetrain import native
from sparsetrain.native import Machine
from sparsetrain.native.machine import covers, serves


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
