"""How parts of a step are timed, and how energy is read."""

import sys
from types import SimpleNamespace

import pytest
import torch

from sparsetrain.bench.energy import energy_meter
from sparsetrain.bench.rounds import (
    TOTAL,
    WARM_UP,
    cuda_part_clock,
    measure_parts,
    three_times,
)

DEVICE = torch.device("cuda", 0)


def test_every_round_starts_with_the_next_and_the_first_does_not_count():
    calls = []

    def clock(parts):
        parts["forward"]()
        return {"forward": 10.0 * len(calls), TOTAL: 1.0}

    works = {name: {"forward": lambda name=name: calls.append(name)} for name in "ab"}
    times = measure_parts(works, clock, rounds=2)
    assert "".join(calls) == "ab" + "ba" + "ab"
    assert WARM_UP == 1
    assert times["a"]["forward"].median == (40.0 + 50.0) / 2, "of the fourth and the fifth call"
    assert (times["a"]["forward"].low, times["a"]["forward"].high) == (42.5, 47.5)
    assert times["b"][TOTAL].spread == 0


def test_one_round_has_no_spread():
    with pytest.raises(ValueError, match="rounds=1: give at least 2"):
        measure_parts({"a": {}}, lambda parts: {TOTAL: 1.0}, rounds=1)


def test_a_round_has_dense_three_times_among_the_others():
    assert three_times(list("adbce"), "d") == ["d", "a", "e", "d", "b", "d", "c"]


class Event:
    """Tells the number of parts that ran before it, as milliseconds."""

    ran = 0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.at = Event.ran

    def synchronize(self):
        pass

    def elapsed_time(self, end):
        return float(end.at - self.at)


def test_the_total_is_of_whole_steps_and_the_parts_are_of_one_more(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", Event)
    ran = []

    def part(name, length):
        def run():
            ran.append(name)
            Event.ran += length

        return run

    clock = cuda_part_clock(untimed=2, steps=4)
    assert clock({"forward": part("f", 3), "backward": part("b", 5)}) == {
        "forward": 3000.0,
        "backward": 5000.0,
        TOTAL: 8000.0,
    }
    assert "".join(ran) == "fb" * (2 + 4 + 1)


@pytest.fixture
def gpu(monkeypatch):
    properties = SimpleNamespace(uuid="1234")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)


class NVMLError(Exception):
    pass


def test_the_meter_tells_joules_of_the_device_with_that_uuid(gpu, monkeypatch):
    nvml = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: {"GPU-1234": "it"}[uuid],
        nvmlDeviceGetTotalEnergyConsumption={"it": 2500}.__getitem__,
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    meter = energy_meter(DEVICE)
    assert not isinstance(meter, str)
    assert meter() == 2.5


def test_without_nvml_or_its_counter_the_reason_is_told(gpu, monkeypatch):
    def refuse(handle):
        raise NVMLError("Not Supported")

    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "pip install nvidia-ml-py" in str(energy_meter(DEVICE))
    nvml = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: "it",
        nvmlDeviceGetTotalEnergyConsumption=refuse,
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert energy_meter(DEVICE) == "NVML does not tell the energy of this device: Not Supported"


@pytest.mark.gpu
def test_parts_sum_up_to_the_total_on_a_gpu():
    a = torch.randn(4096, 4096, device="cuda")
    parts = {"one": lambda: a @ a, "three": lambda: [a @ a for _ in range(3)]}
    times = measure_parts({"work": parts}, cuda_part_clock(1, 8), rounds=5)["work"]
    assert times["one"].median + times["three"].median == pytest.approx(
        times[TOTAL].median, rel=0.2
    )
    # Loose, for a GPU that other processes use too.
    assert times["three"].median > 1.5 * times["one"].median
