"""On a real GPU: its plans can be trusted, and a run gives the images of a run on the CPU.

Memory, queued work and telemetry behave as the engine expects.
"""

import json
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch
import zarr
from torch import nn

from mcdiff_batch.engine.backends.cuda import CudaError, Queue, runtime
from mcdiff_batch.engine.backends.devices import backends_on
from mcdiff_batch.engine.backends.gpus import gpus
from mcdiff_batch.engine.backends.trial import prepare_plan
from mcdiff_batch.engine.errors import Exit
from mcdiff_batch.engine.image.metrics import psnr
from mcdiff_batch.engine.model.contract import SHIPPED, load_bundle
from mcdiff_batch.engine.model.plan import Device
from mcdiff_batch.engine.telemetry.sampling import Telemetry, load_nvml, read_headers, read_samples
from mcdiff_batch.train.training.step import Stepper
from tests.support.crafting import command
from tests.support.running import committed

pytestmark = [pytest.mark.gpu, pytest.mark.slow]


def enhanced(output: Path):
    found = np.asarray(zarr.open_group(output / "images.zarr", mode="r")["enhanced"])
    return found.astype(np.float32) / 255


def test_every_plan_of_a_gpu_can_be_trusted(tmp_path):
    backends = backends_on(gpus()[0])
    assert backends
    for backend in backends:
        device = Device(kind="cuda", index=0)
        _, result = prepare_plan(backend, load_bundle(SHIPPED), (device,), 8, tmp_path)
        assert result.faults == []


def test_a_run_on_a_gpu_is_the_cpus_and_comes_to_the_same_bytes_again(phantoms, monkeypatch):
    names = {"cpu": "cpu", "first": "cuda:0", "second": "cuda:0"}
    outputs = {name: phantoms.parent / name for name in names}
    for name, device in names.items():
        words = ("run", "--input", phantoms, "--output", outputs[name], "--devices", device)
        assert command(monkeypatch, *words, "--limit", 16) == Exit.DONE
    assert committed(outputs["first"]) == committed(outputs["second"])
    images = [enhanced(outputs[name])[:16] for name in ("cpu", "first")]
    for mine, theirs in zip(*images, strict=True):
        assert psnr(mine, theirs, np.ones(mine.shape, np.bool_)) > 45


def test_a_step_recorded_as_a_graph_is_the_step():
    found = {}
    for records in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.GroupNorm(1, 8), nn.Conv2d(8, 1, 1))
        model.to("cuda")
        average = {name: x.detach().clone() for name, x in model.state_dict().items()}
        loss = lambda batch, model=model: (model(batch[0]) - batch[1]).square().mean()
        step = Stepper(model, loss, average, torch.device("cuda"), clip=1.0, world=1)
        assert step.records
        step.records = records
        sizes = [(2, 1, 16, 16), (2, 1, 8, 8)] * 6
        batches = [tuple(torch.randn(2, *size).unbind()) for size in sizes]
        losses = torch.stack([step(batch, 1e-2, 0.9) for batch in batches])
        assert len(step.recordings) == (2 if records else 0)
        found[records] = torch.cat([losses, *(x.flatten() for x in average.values())]).cpu()
    assert torch.allclose(found[False], found[True], rtol=1e-2, atol=1e-3)


@pytest.fixture(scope="module")
def queue():
    return Queue(0, runtime())


@pytest.mark.parametrize("dtype", ["f4", "f2", "u1", "i4"])
def test_what_is_uploaded_comes_back_in_the_same_bits(queue, dtype):
    bits = np.random.default_rng(0).integers(0, 256, 1 << 20, np.uint8)  # NaNs among them
    array = bits.view(dtype).reshape(2, 4, -1)
    buffer = queue.buffer(array.shape, dtype)
    queue.upload(buffer, array)
    queue.wait()
    buffer.host[...] = 0  # what comes back was on the device
    found = queue.download(buffer)
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert found.tobytes() == array.tobytes()


def test_an_array_may_change_once_it_is_uploaded(queue):
    shape = (1 << 24,)
    buffers = [queue.buffer(shape, np.float32) for _ in range(4)]
    array = np.empty(shape, np.float32)
    for value, buffer in enumerate(buffers):
        array[:] = value
        queue.upload(buffer, array)
    array[:] = -1
    assert [set(np.unique(queue.download(x)).tolist()) for x in buffers] == [{0}, {1}, {2}, {3}]


def test_a_few_numbers_may_change_once_they_are_set(queue):
    buffers = [queue.buffer((6,), np.float32) for _ in range(100)]
    numbers = np.empty(6, np.float32)
    for value, buffer in enumerate(buffers):
        numbers[:] = value
        queue.set(buffer, numbers)
    assert [float(queue.download(x)[5]) for x in buffers] == list(range(100))


def test_recorded_work_is_done_on_what_the_device_holds_then(queue):
    source, target = (queue.buffer((1 << 20,), np.float32) for _ in range(2))
    queue.upload(source, np.zeros(1 << 20))
    again = queue.record(lambda: queue.move(source, target))
    assert not queue.download(target).any()
    for value in (1, 2):
        queue.upload(source, np.full(1 << 20, value))
        again()
        assert (queue.download(target) == value).all()


def test_a_cuda_error_names_the_call_that_failed():
    with pytest.raises(CudaError, match=r"^cudaMallocHost: cudaError\w+, "):
        Queue(0, runtime()).buffer((1 << 50,), np.uint8)  # a pebibyte


def test_telemetry_tells_the_figures_of_a_real_gpu(tmp_path):
    (tmp_path / "report").mkdir()
    end = Event()
    end.set()
    Telemetry(tmp_path, 7.0, 0.0, load_nvml()).run(end)
    (about,), (sample,) = read_headers(tmp_path), read_samples(tmp_path)
    assert "NVIDIA" in about["gpu_names"][0]
    first, memory = sample["gpus"][0], gpus()[0].memory_mib
    assert memory is not None
    assert 0 < first["power_w"] < 2000
    assert 0 < first["memory_mib"] < memory
    assert 0 < first["temperature_c"] < 120
    assert 0 <= first["utilisation_percent"] <= 100
    assert first["clock_mhz"] > 0


def test_the_doctor_names_the_gpu_and_trusts_its_plans(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert command(monkeypatch, "doctor", "--json") == Exit.DONE
    found = json.loads(capsys.readouterr().out)
    assert found["faults"] == []
    assert found["run_would_take"][0] == "cuda:0"
    assert found["gpus"][0]["name"] in found["because"]
    rows = {name: row for name, row in found["plans"].items() if name.endswith("cuda:0")}
    assert rows
    assert all(row["slots_equal"] and row["order_free"] for row in rows.values())
