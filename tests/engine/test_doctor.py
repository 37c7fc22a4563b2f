"""The doctor: what is here, what would be taken, and plans that do not deserve trust."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from mcdiff_batch.bench.common.mean_plan import contract
from mcdiff_batch.engine.backends.gpus import capability, driver, gpus
from mcdiff_batch.engine.backends.selftest import tried
from mcdiff_batch.engine.errors import DeviceError
from mcdiff_batch.engine.image.frame import Frame
from tests.support.crafting import command
from tests.support.fake import FakePlan

CONTRACT = contract(Frame(height=32, width=16), depths=2)


def verdict(plan):
    return tried(plan, CONTRACT, FakePlan(batch=1))


def test_a_sound_plan_has_no_faults():
    found = verdict(FakePlan(batch=4))
    assert found.faults == []
    assert found.psnr_db == 140


class Altered(FakePlan):
    """Adds something to every step's results."""

    def __init__(self, change):
        super().__init__(batch=4)
        self.change = change

    def step(self, x, previous, rung, conditioned):
        after, x0 = super().step(x, previous, rung, conditioned)
        return np.asarray(after + self.change(after), np.float32), x0


def by_slot(x):
    return 1e-6 * np.arange(len(x))[:, None, None, None]


def by_neighbours(x):
    return 1e-6 * np.roll(x, 1, axis=0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (by_slot, "depend on its slot"),
        (by_neighbours, "depend on its neighbours"),
        (lambda x: np.full_like(x, np.nan), "not finite"),
        (lambda x: np.full_like(x, 0.1), "dB from float32"),
    ],
)
def test_a_plan_that_breaks_a_promise_is_found_out(change, said):
    assert any(said in fault for fault in verdict(Altered(change)).faults)


def test_the_doctor_tries_the_plan_that_a_run_would_take(toy_bundle, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert command(monkeypatch, "doctor", "--bundle", toy_bundle, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["faults"] == []
    assert found["run_would_take"] == ["cpu:0"]
    assert found["packages"]["tensorrt-rtx"]
    assert found["plan_cache"]["plans"] == 0
    (row,) = found["plans"].values()
    assert row["slots_equal"]
    assert row["order_free"]
    assert command(monkeypatch, "doctor", "--bundle", toy_bundle) == 0
    said = capsys.readouterr().out
    assert "verdict: sound" in said
    assert "same bits in every slot" in said


class NotSupported(Exception):
    pass


def library(**changes):
    """NVIDIA's management library on a machine with two A6000s; the second tells little."""

    def refuse(handle):
        if handle == 1:
            raise NotSupported
        return SimpleNamespace(total=48 << 30, free=47 << 30)

    nothing = lambda *_: None
    return SimpleNamespace(
        **{
            "NVMLError": NotSupported,
            "NVML_CLOCK_SM": 1,
            "nvmlClocksThrottleReasonHwSlowdown": 8,
            "nvmlClocksThrottleReasonSwThermalSlowdown": 32,
            "nvmlInit": nothing,
            "nvmlShutdown": nothing,
            "nvmlSystemGetDriverVersion": lambda: "580.1",
            "nvmlDeviceGetCount": lambda: 2,
            "nvmlDeviceGetHandleByIndex": lambda index: index,
            "nvmlDeviceGetName": lambda handle: "NVIDIA RTX A6000",
            "nvmlDeviceGetCudaComputeCapability": lambda handle: (8, 6),
            "nvmlDeviceGetMemoryInfo": refuse,
            "nvmlDeviceGetClockInfo": lambda handle, kind: 1800,
            "nvmlDeviceGetEccMode": lambda handle: (1, 1),
            "nvmlDeviceGetCurrentClocksThrottleReasons": lambda handle: 8 * handle,
        }
        | changes
    )


def test_gpus_are_told_with_what_the_library_knows():
    first, second = gpus(library())
    assert (first.name, first.capability, first.memory_mib) == ("NVIDIA RTX A6000", "sm_86", 49152)
    assert (first.ecc, first.throttled, first.clock_mhz) == (True, False, 1800)
    assert (second.memory_mib, second.throttled) == (None, True)
    assert capability(library()) == "sm_86"
    assert driver(library()) == "580.1"


def test_no_driver_is_no_gpu():
    def absent():
        raise NotSupported

    assert gpus(library(nvmlInit=absent)) == []
    assert driver(library(nvmlInit=absent)) is None
    with pytest.raises(DeviceError, match="--target sm_86"):
        capability(library(nvmlInit=absent))
