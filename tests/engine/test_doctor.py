"""`doctor`: what a machine has, what a run would use, and plans that cannot be trusted."""

import json
from itertools import permutations

import numpy as np
import pytest

from mcdiff_batch.bench.common.mean_plan import contract
from mcdiff_batch.engine.backends.gpus import driver_version, find_capability, gpus
from mcdiff_batch.engine.backends.trial import self_test
from mcdiff_batch.engine.errors import DeviceError
from mcdiff_batch.engine.image.frame import Frame
from tests.support.crafting import command
from tests.support.fake import FakePlan
from tests.support.simulated import (
    AlteredPlan,
    NotSupported,
    by_mean,
    by_neighbours,
    by_slot,
    library,
)

CONTRACT = contract(Frame(height=32, width=16), depths=2)


def result(plan):
    return self_test(plan, CONTRACT, FakePlan(batch=1))


def test_a_sound_plan_has_no_faults():
    found = result(FakePlan(batch=4))
    assert found.faults == []
    assert found.psnr_db == 140


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (by_slot, "depend on its slot"),
        (by_neighbours, "depend on its neighbours"),
        (by_mean, "depend on its neighbours"),
        (lambda x: np.full_like(x, np.nan), "not finite"),
        (lambda x: np.full_like(x, 0.1), "dB from float32"),
    ],
)
def test_a_plan_that_breaks_a_promise_has_a_fault(change, said):
    plan = AlteredPlan(batch=4, change=change)
    assert any(said in fault for fault in result(plan).faults)


@pytest.mark.parametrize("batch", [2, 4])
def test_a_slot_that_changes_another_slot_is_found_whichever_two_they_are(batch):
    for source, target in permutations(range(batch), 2):

        def change(x, source=source, target=target):
            added = np.zeros_like(x)
            added[target] = 1e-6 * x[source]
            return added

        assert result(AlteredPlan(batch=batch, change=change)).mixes_cases, (source, target)


def test_the_doctor_tests_the_plan_that_a_run_would_use(toy_bundle, tmp_path, monkeypatch, capsys):
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


def test_gpus_have_the_properties_that_the_library_knows():
    first, second = gpus(library())
    assert (first.name, first.capability, first.memory_mib) == ("NVIDIA RTX A6000", "sm_86", 49152)
    assert (first.ecc, first.throttled, first.clock_mhz) == (True, False, 1800)
    assert (second.memory_mib, second.throttled) == (None, True)
    assert find_capability(library()) == "sm_86"
    assert driver_version(library()) == "580.1"


def test_without_a_driver_there_is_no_gpu():
    def absent():
        raise NotSupported

    assert gpus(library(nvmlInit=absent)) == []
    assert driver_version(library(nvmlInit=absent)) is None
    with pytest.raises(DeviceError, match="--target sm_86"):
        find_capability(library(nvmlInit=absent))
