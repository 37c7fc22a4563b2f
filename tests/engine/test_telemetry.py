"""Telemetry keeps what GPUs report, notes what they refuse, and stays small in long runs."""

import json
import subprocess
import sys
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any

import pytest

from mcdiff_batch.engine.page.write import write_report
from mcdiff_batch.engine.report import machine as load
from mcdiff_batch.engine.report.collect import collect
from mcdiff_batch.engine.report.parts import Journal
from mcdiff_batch.engine.telemetry import tracefile
from mcdiff_batch.engine.telemetry.gauges import read_processes
from mcdiff_batch.engine.telemetry.sampling import (
    MOST,
    PERIOD,
    SAMPLES,
    Telemetry,
    merge_pairs,
    read_samples,
    sampling,
)
from mcdiff_batch.engine.telemetry.timesheet import STATS
from tests.support.fake_nvml import FakeNvml
from tests.support.running import archive, committed, inline, job


def ended() -> Event:
    event = Event()
    event.set()
    return event


def watched(root: Path, nvml: FakeNvml, times: int = 1) -> list[dict[str, Any]]:
    (root / "report").mkdir(exist_ok=True)
    for _ in range(times):
        Telemetry(root, 7.0, 0.0, nvml).run(ended())
    return list(read_samples(root))


def test_every_gpu_gives_its_figures(tmp_path: Path) -> None:
    (sample,) = watched(tmp_path, FakeNvml(xids=[79]))
    first, second = sample["gpus"]
    assert first["power_w"] == 250
    assert second["utilisation_percent"] == 91
    assert (first["memory_mib"], second["temperature_c"]) == (10240, 71)
    assert (first["slowed"], second["slowed"]) == ([], ["power cap"])
    assert (first["ecc_errors"], second["ecc_errors"]) == (0, 1)
    assert sample["xids"] == [79]
    assert sample["resident_mib"] > 10


def test_no_driver_is_a_note(tmp_path: Path) -> None:
    (sample,) = watched(tmp_path, FakeNvml(refuses=("nvmlInit",)))
    assert sample["gpus"] == []
    found = load.collect([Journal(folder=tmp_path)], {(0, 7.0): 0.0}, 1.0)
    assert any("no GPU is watched" in note for note in found.notes)


def test_what_a_gpu_refuses_is_a_note_and_the_rest_is_sampled(tmp_path: Path) -> None:
    refused = ("nvmlDeviceGetPowerUsage", "nvmlEventSetCreate", "nvmlDeviceGetTotalEccErrors")
    (sample,) = watched(tmp_path, FakeNvml(refuses=refused))
    assert "power_w" not in sample["gpus"][0]
    assert sample["gpus"][0]["temperature_c"] == 70
    found = load.collect([Journal(folder=tmp_path)], {(0, 7.0): 0.0}, 1.0)
    assert {note.partition(" is not available")[0] for note in found.notes} == {
        "power_w", "xid", "ecc_errors",
    }  # fmt: skip
    assert found.gpus[0].power_w is None


def sample(at: float, power: float = 100.0, began: float = 7.0, **more: Any) -> dict[str, Any]:
    gpu = {"index": 0, "power_w": power, "temperature_c": power / 2, "slowed": []}
    machine = {"cpu_percent": at, "resident_mib": 50.0, "gpus": [gpu], "xids": []}
    return {"began": began, "at": at} | machine | more


def test_merged_samples_keep_means_extremes_and_all_errors() -> None:
    (found,) = merge_pairs([sample(1, 100, xids=[13]), sample(2, 300, xids=[79])])
    assert (found["at"], found["cpu_percent"], found["xids"]) == (2, 1.5, [13, 79])
    assert (found["gpus"][0]["power_w"], found["gpus"][0]["temperature_c"]) == (200, 150)


def test_samples_of_two_sessions_are_not_merged() -> None:
    note = {"began": 9.0, "notes": [], "gpu_names": []}
    lines = [sample(1), sample(2), sample(3), note, sample(1, began=9.0)]
    assert [x.get("at") for x in merge_pairs(lines)] == [2, 3, None, 1]


def test_a_night_of_samples_stays_bounded(tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    found = Telemetry(tmp_path, 7.0, 0.0, FakeNvml())
    for k in range(10 * MOST):
        found.add(sample(float(k)))
    assert found.period > PERIOD
    kept = list(read_samples(tmp_path))
    assert MOST / 4 < len(kept) <= MOST
    assert (kept[-1]["at"], kept[0]["began"]) == (10 * MOST - 1, 7.0)


DAMAGE = {  # lines that are no samples
    "fields are missing": {"at": 1},
    "no number": sample(1) | {"at": None},
    "no list": sample(1) | {"gpus": 7},
    "other GPUs": sample(1) | {"gpus": [{"power_w": 1.0}]},
    "not finite": sample(1) | {"cpu_percent": float("nan")},
    "huge": sample(1) | {"resident_mib": 1e300},
    "no header": {"gpu_names": 3, "notes": []},
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_file_full_of_damaged_samples_does_not_end_the_sampling(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / SAMPLES).write_text((json.dumps(DAMAGE[name]) + "\n") * (MOST + 76))
    found = Telemetry(tmp_path, 7.0, 0.0, FakeNvml())
    found.run(ended())
    for k in range(2 * MOST):
        found.add(sample(float(k)))
    assert found.period > PERIOD
    assert list(read_samples(tmp_path))[-1]["at"] == 2 * MOST - 1


def test_samples_with_fields_of_many_kinds_are_merged(tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    odd = sample(1, gpus=[{"index": 0, "slowed": [{}, []]}], xids=[79], note=["a"])
    lines = [odd, sample(1, note=3, xids=[1.0])] * MOST
    (tmp_path / SAMPLES).write_text("".join(json.dumps(x) + "\n" for x in lines))
    found = Telemetry(tmp_path, 7.0, 0.0, FakeNvml())
    found.add(sample(2))
    assert list(read_samples(tmp_path))[-1]["at"] == 2


def run_with(root: Path, nvml: FakeNvml) -> Path:
    """The output of a run on a machine with the GPUs of `nvml`."""
    out = root / "out"
    inline(job(archive(root / "a.zarr", 4), out, unit_size=2))
    (out / SAMPLES).unlink()  # of the machine that runs this test
    began = json.loads((out / STATS).read_bytes())["runs"][0]["began"]
    Telemetry(out, began, monotonic(), nvml).run(ended())
    return out


def test_the_report_shows_power_and_heat_where_there_are_gpus(tmp_path: Path) -> None:
    out = run_with(tmp_path, FakeNvml(xids=[31]))
    page = write_report(out).read_text()
    assert "Power of GPU 0" in page
    assert "Temperature of GPU 1" in page
    assert "Driver errors (XID):" in page
    gpu = collect(out).machine.gpus[1]
    assert gpu.name == "NVIDIA Fake 1"
    assert gpu.power_w is not None
    assert gpu.power_w.max == 251
    assert gpu.slowed_percent == {"power cap": 100}


def test_without_gpus_the_report_shows_cpu_and_memory_alone(tmp_path: Path) -> None:
    page = write_report(run_with(tmp_path, FakeNvml(refuses=("nvmlInit",)))).read_text()
    assert "Resident memory" in page
    assert "Power of" not in page


def test_gpus_do_not_change_a_byte(tmp_path: Path) -> None:
    source = archive(tmp_path / "a.zarr", 4)
    (tmp_path / "with/report").mkdir(parents=True)
    with sampling(tmp_path / "with", 7.0, 0.0, FakeNvml()):
        inline(job(source, tmp_path / "with"))
    assert any(x["gpus"] for x in read_samples(tmp_path / "with"))
    inline(job(source, tmp_path / "without"))
    assert committed(tmp_path / "with") == committed(tmp_path / "without")


def test_samples_are_counter_tracks_of_the_trace(tmp_path: Path) -> None:
    watched(tmp_path, FakeNvml())
    events = tracefile.export_trace(("", tmp_path))["traceEvents"]
    names = {x["name"] for x in events if x["ph"] == "C"}
    assert {"resident_mib", "cpu_percent", "gpu 0 power_w", "gpu 1 temperature_c"} <= names


def test_a_disk_that_is_full_ends_sampling_alone(tmp_path: Path) -> None:
    Telemetry(tmp_path, 7.0, 0.0, FakeNvml()).run(ended())  # there is no folder to write to
    assert list(read_samples(tmp_path)) == []


def test_lines_that_are_none_of_ours_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    bad = ['{"at": 1}', '{"gpu_names": 1, "notes": 2}', json.dumps(sample(1, gpus=[3])), "{"]
    (tmp_path / SAMPLES).write_text("\n".join([*bad, json.dumps(sample(1))]))
    assert len(list(read_samples(tmp_path))) == 1


def test_this_process_uses_memory_and_time() -> None:
    seconds, resident = read_processes()
    assert seconds > 0
    assert 10 < resident < 1e6


PARENT = """
import subprocess, sys
from mcdiff_batch.engine.telemetry.gauges import read_processes
print(read_processes()[1])
code = "x = b'x' * (100 << 20); print(flush=True); input()"
pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
child = subprocess.Popen([sys.executable, "-c", code], **pipes)
child.stdout.readline()
print(read_processes()[1])
child.communicate(b"\\n")
print(read_processes()[1])
"""


def test_a_child_counts_until_it_ends() -> None:
    """Of a process of its own: servers that tests have started are children of this one."""
    words = [sys.executable, "-c", PARENT]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    alone, with_child, after = map(float, done.stdout.split())
    assert with_child > alone + 100
    assert after < with_child - 100


@pytest.mark.parametrize("cut", [0.5, 1.0])
def test_a_curve_covers_the_whole_run(tmp_path: Path, cut: float) -> None:
    (tmp_path / "report").mkdir()
    lines = [sample(10 * cut * k / 9) for k in range(10)]
    (tmp_path / SAMPLES).write_text("".join(json.dumps(x) + "\n" for x in lines))
    found = load.collect([Journal(folder=tmp_path)], {(0, 7.0): 0.0}, 10.0)
    assert found.cpu_percent is not None
    curve = found.cpu_percent.curve
    assert len(curve) == 10
    assert curve[0] <= curve[4] <= curve[-1] == pytest.approx(10 * cut, abs=10 * cut / 3)
