"""`--devices`: which GPUs there are, which of them a run takes, and what is refused."""

from dataclasses import replace

import pytest

from mcdiff_batch.engine.backends.devices import devices
from mcdiff_batch.engine.backends.gpus import gpus
from mcdiff_batch.engine.backends.ort import CPU
from mcdiff_batch.engine.errors import DeviceError, Exit, UsageError
from mcdiff_batch.engine.model.plan import Device
from mcdiff_batch.engine.telemetry.gauges import GpuGauges
from tests.support.crafting import command
from tests.support.fake_nvml import FakeNvml
from tests.support.running import archive
from tests.support.simulated import library

GPU = Device(kind="cuda", index=0)
TWO = (GPU, Device(kind="cuda", index=1))


def gpu(index, capability="sm_86"):
    return replace(gpus(library())[0], index=index, capability=capability)


def test_auto_takes_every_gpu_of_one_kind_that_tensorrt_serves():
    assert devices("auto", [gpu(0), gpu(1)]) == TWO
    assert devices("auto", [gpu(0), gpu(1, "sm_89")]) == (GPU,)
    assert devices("auto", []) == (CPU,)
    assert devices("gpu", [gpu(0), gpu(1)]) == TWO
    assert devices("CUDA:0, GPU:1", [gpu(0), gpu(1)]) == TWO
    assert devices("CPU", [gpu(0)]) == (CPU,)
    assert devices("auto", [gpu(0, "sm_90")]) == (CPU,)  # RTX does not serve it


def test_a_gpu_that_is_named_twice_gets_two_workers():
    found = devices("cuda:0,cuda:1,cuda:00,cuda:1", [gpu(0), gpu(1)])
    assert [str(x) for x in found] == ["cuda:0", "cuda:1", "cuda:0.1", "cuda:1.1"]
    assert [x.title for x in found] == ["GPU 0", "GPU 1", "GPU 0 worker 2", "GPU 1 worker 2"]
    assert [x.index for x in found] == [0, 1, 0, 1]


@pytest.mark.parametrize("text", ["cuda:9\n", "\x1b[2Jcuda:9", " gpu\n", "cpu:0\r\n", "1,\u0662\n"])
@pytest.mark.parametrize("found", [[], [gpu(0)], [gpu(9, "sm_20")]])
def test_messages_on_devices_are_one_line_of_printable_text(text, found):
    if text == " gpu\n" and found == [gpu(0)]:
        return  # that is what it asks for
    with pytest.raises((DeviceError, UsageError)) as caught:
        devices(text, found)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("text", "found", "error", "said"),
    [
        ("cuda:0,cuda:2", [gpu(0), gpu(1)], DeviceError, "no cuda:2 is found"),
        ("cuda:7,cuda:0,cuda:7", [gpu(0)], DeviceError, "no cuda:7 is found"),
        ("cuda:0", [], DeviceError, "of this machine are: none"),
        ("cuda:0,cuda:1", [gpu(0), gpu(1, "sm_89")], DeviceError, "of different kinds"),
        ("cuda:0", [gpu(0, "sm_90")], DeviceError, "nothing that is installed"),
        (",".join(["cuda:0"] * 9), [gpu(0)], UsageError, "named 9 times; .* at most 8"),
        ("cuda:0,cpu", [gpu(0)], UsageError, "the CPU cannot share a run"),
        ("cpu:0", [], UsageError, "1 to 1024; cpu alone is one"),
        ("cpu:99999999999", [], UsageError, "1 to 1024"),
        ("0,1", [gpu(0)], UsageError, "did you mean cuda:0,cuda:1"),
        ("cuda:0,auto", [gpu(0)], UsageError, "auto stands alone"),
        ("cuda:-1", [gpu(0)], UsageError, "expected auto"),
        ("", [gpu(0)], UsageError, "expected auto"),
        ("tpu", [gpu(0)], UsageError, "expected auto"),
        ("gpu", [], DeviceError, "no GPU is found"),
    ],
)
def test_devices_that_cannot_be_used_are_refused(text, found, error, said):
    with pytest.raises(error, match=said):
        devices(text, found)


def test_gpus_are_counted_as_cuda_does(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    nvml = library(nvmlDeviceGetUUID=lambda handle: f"GPU-{handle}")
    assert [(x.index, x.throttled) for x in gpus(nvml)] == [(0, True)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1,GPU-0")
    assert [x.throttled for x in gpus(nvml)] == [True, False]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1,0")
    assert gpus(nvml) == []


def test_telemetry_counts_gpus_as_the_devices_of_a_run(monkeypatch):
    """Slurm gives each part one GPU of several; to the part it is cuda:0."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    gauges = GpuGauges(FakeNvml(count=4))
    gauges.open()
    (figures,) = gauges.read()
    assert (figures["index"], figures["memory_mib"]) == (0, 12 << 10)
    assert gauges.names == ["NVIDIA Fake 2"]


def test_a_run_on_a_gpu_that_is_not_there_ends_with_its_own_code(tmp_path, monkeypatch, capsys):
    source = archive(tmp_path / "a.zarr", 2)
    words = ("run", "--input", source, "--devices", "cuda:0")
    assert command(monkeypatch, *words) == Exit.NO_DEVICE
    assert "no cuda:0 is found" in capsys.readouterr().err
