"""Plans of all backends: what they compute, when they are trusted, and what a run stores."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest

from mcdiff_batch.engine.backends import plan_cache
from mcdiff_batch.engine.backends.backend import BUILD, CompiledFiles, graph_shapes
from mcdiff_batch.engine.backends.cuda import CudaError, Queue
from mcdiff_batch.engine.backends.ort import CPU, OnnxRuntime
from mcdiff_batch.engine.backends.ort_cuda import CUDA_PROVIDER, BoundPlan, OnnxRuntimeCuda
from mcdiff_batch.engine.backends.trial import Loader, prepare_plan
from mcdiff_batch.engine.backends.trt import TrtPlan
from mcdiff_batch.engine.errors import DeviceError, Exit, FingerprintError
from mcdiff_batch.engine.files import file_sha256
from mcdiff_batch.engine.model.contract import load_bundle
from mcdiff_batch.engine.model.noise import gaussian
from mcdiff_batch.engine.model.plan import Device
from mcdiff_batch.engine.model.sampler import sample
from mcdiff_batch.engine.model.solver import rungs
from mcdiff_batch.engine.run import worker
from mcdiff_batch.engine.run.enhance import enhance
from mcdiff_batch.engine.run.pool import Limits
from mcdiff_batch.engine.run.preflight import prepare
from mcdiff_batch.engine.telemetry.spans import SpanLog, recording
from tests.engine.test_faults import incidents
from tests.support import running
from tests.support.crafting import command
from tests.support.fake import FakeMaker, InlineWorkers
from tests.support.many import HostMaker
from tests.support.processes import PATIENCE, find_family, still_running, wait_for
from tests.support.running import DENOISER, archive, committed, fault, job
from tests.support.simulated import (
    Cuda,
    Error,
    FakeBackend,
    RecordingSession,
    TensorRT,
    by_neighbours,
    by_slot,
    simulated_plans,
)

BATCH = 2
GPU = Device(kind="cuda", index=0)
TWO = (GPU, Device(kind="cuda", index=1))
SHARED = (GPU, Device(kind="cuda", index=0, worker=1))


@pytest.fixture(scope="module")
def bundle(toy_bundle):
    return load_bundle(toy_bundle)


def stack(bundle, seed):
    """Depths, weights, strip and scan of a batch."""
    rng, frame = np.random.default_rng(seed), bundle.contract.frame
    depths = rng.uniform(-1, 1, (BATCH, 5, frame.height, frame.width)).astype(np.float32)
    strip = np.ones((BATCH, 1, frame.height, frame.width), np.float32)
    return depths, np.full((BATCH, 5), 0.2, np.float32), strip, depths[:, 2, None]


def walked(plan, bundle):
    """Labels, results and labels of results of two batches, one after the other, two draws each."""
    contract, found = bundle.contract, []
    walk = rungs("dpmpp_2m", contract.schedule, contract.sampler.ladder)
    for seed in (0, 1):
        depths, weights, strip, scan = stack(bundle, seed)
        conditioned = plan.condition(depths, weights, strip, scan)
        found.append(conditioned.label)
        for draw in range(2):
            noise = gaussian(draw, "case", strip.shape)
            found.append(np.clip(sample(plan, noise, conditioned, walk), -1, 1))
        found.append(plan.relabel(found[-1], strip))
    return found


def same(ours, theirs):
    return all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("rtx", [False, True])
def test_a_tensorrt_plan_computes_what_its_graphs_say(bundle, rtx):
    cuda = Cuda()
    plans = simulated_plans(bundle, BATCH)
    plan = TrtPlan(TensorRT(cuda, rtx=rtx), Queue(0, cuda), plans, BATCH)
    assert same(
        walked(plan, bundle), walked(OnnxRuntime(half=True).load(bundle, CPU, BATCH), bundle)
    )
    assert cuda.launches == 4 * len(bundle.contract.sampler.ladder)
    log = SpanLog()
    with recording(log, "model"):
        plan.condition(*stack(bundle, 0))
    assert {x.stage for x in log.spans} == {"host-to-device", "compute", "device-to-host"}


def recording_plan(bundle, *, half=False):
    """A plan on ONNX Runtime, and the sessions that record its CUDA graphs."""
    shapes = graph_shapes(bundle, BATCH)
    graphs = {
        name: RecordingSession(bundle.graph(graph, half=half), sizes)
        for name, (graph, sizes) in shapes.items()
    }
    return BoundPlan(graphs, shapes, CPU), graphs


@pytest.mark.parametrize("kind", ["tensorrt", "onnxruntime"])
def test_conditions_of_another_batch_are_refused(bundle, kind):
    if kind == "tensorrt":
        cuda = Cuda()
        plan = TrtPlan(TensorRT(cuda), Queue(0, cuda), simulated_plans(bundle, BATCH), BATCH)
    else:
        plan, _ = recording_plan(bundle)
    strip = stack(bundle, 0)[2]
    first = plan.condition(*stack(bundle, 0))
    plan.condition(*stack(bundle, 0))
    (rung, *_) = rungs("ddim", bundle.contract.schedule, (500.0,))
    with pytest.raises(AssertionError, match="another batch"):
        plan.step(strip, strip, rung, first)


@pytest.mark.parametrize("kind", ["tensorrt", "onnxruntime"])
def test_a_plan_of_fixed_sizes_takes_an_archive_of_one_depth(bundle, kind):
    depths, _, strip, scan = stack(bundle, 0)
    one = (depths[:, 2:3], np.ones((BATCH, 1), np.float32), strip, scan)
    walk = rungs("dpmpp_2m", bundle.contract.schedule, bundle.contract.sampler.ladder)
    if kind == "tensorrt":
        cuda = Cuda()
        plan = TrtPlan(TensorRT(cuda), Queue(0, cuda), simulated_plans(bundle, BATCH), BATCH)
    else:
        plan, _ = recording_plan(bundle, half=True)
    found = []
    for each in (plan, OnnxRuntime(half=True).load(bundle, CPU, BATCH)):
        conditioned = each.condition(*one)
        found.append((conditioned.label, sample(each, scan, conditioned, walk)))
    (label, image), (label_of_one, image_of_one) = found
    assert (label == label_of_one).all()
    assert np.allclose(image, image_of_one, atol=1e-3)


@pytest.fixture
def load_kernels(bundle, tmp_path, monkeypatch):
    """Loads plans from a folder; returns the kernels that TensorRT for RTX is given."""
    folder, contexts = tmp_path / "plans", []
    folder.mkdir(mode=0o755)
    for name, data in simulated_plans(bundle, BATCH).items():
        (folder / f"{name}.plan").write_bytes(data)
    hashes = {x.name: file_sha256(x) for x in folder.iterdir()}

    class Watched(TensorRT):
        def _load(self, plan):
            engine = super()._load(plan)
            make = engine.create_execution_context
            engine.create_execution_context = lambda config: (
                contexts.append(make(config)) or (contexts[-1])
            )
            return engine

    def load():
        contexts.clear()
        cuda = Cuda()
        monkeypatch.setattr(plan_cache.cuda, "runtime", lambda: cuda)
        monkeypatch.setattr(plan_cache.trt, "tensorrt", lambda: Watched(cuda, rtx=True))
        plan_cache.load(folder, hashes, GPU, BATCH)
        return {x.config.kernels.given for x in contexts}

    return folder, load


def test_kernels_made_at_load_are_kept_and_damaged_ones_made_again(load_kernels):
    folder, load = load_kernels
    assert load() == {b""}
    assert load() == {b"kernels of this GPU"}
    for path in folder.glob("*.jit"):
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert load() == {b""}
    assert load() == {b"kernels of this GPU"}


def test_p11_kernels_are_not_taken_from_a_folder_that_others_can_write_to(load_kernels):
    """Such as that of an output that the hosts of a cluster share: others could plant code."""
    folder, load = load_kernels
    assert load() == {b""}
    folder.chmod(0o777)
    assert load() == {b""}
    for path in folder.glob("*.jit"):
        path.unlink()
    assert load() == {b""}
    assert not list(folder.glob("*.jit"))


def test_a_plan_that_the_gpu_refuses_ends_the_worker_and_not_the_run(bundle):
    cuda, plans = Cuda(), simulated_plans(bundle, BATCH)
    with pytest.raises(RuntimeError, match="refuses the plan"):
        TrtPlan(TensorRT(cuda, refuses=True), Queue(0, cuda), plans, BATCH)


def test_a_plan_is_not_read_after_its_file_was_changed(tmp_path):
    (tmp_path / "denoiser.plan").write_bytes(b"compiled")
    hashes = {"denoiser.plan": file_sha256(tmp_path / "denoiser.plan")}
    (tmp_path / "denoiser.plan").write_bytes(b"Compiled")
    with pytest.raises(DeviceError, match="was changed"):
        plan_cache.load(tmp_path, hashes, GPU, BATCH)


@pytest.mark.parametrize(
    ("call", "error", "kind"),
    [
        ("cudaMalloc", Error.cudaErrorMemoryAllocation, "memory"),
        ("cudaStreamSynchronize", Error.cudaErrorLaunchFailure, "fault"),
    ],
)
def test_a_cuda_error_is_reported_as_its_kind(call, error, kind):
    def use():
        queue = Queue(0, Cuda(**{call: error}))
        queue.upload(queue.buffer((2,), np.float32), np.zeros(2))

    with pytest.raises(CudaError, match=error.name) as raised:
        use()
    recipe = SimpleNamespace(archive="a.zarr", output="a.enhanced")
    assert worker.breakdown(raised.value, recipe).kind == kind


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("CUDA failure 2: out of memory", "memory"),
        ("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED", "memory"),
        ("CUDNN failure 2: CUDNN_STATUS_ALLOC_FAILED", "memory"),
        ("CUDA failure 700: an illegal memory access was encountered", "fault"),
    ],
)
def test_an_error_of_onnx_runtime_on_a_gpu_is_reported_as_its_kind_without_the_host(error, kind):
    text = f"[ONNXRuntimeError] : 1 : FAIL : {error} ; GPU=0 ; hostname=ward-7 ; expr=create();"
    recipe = SimpleNamespace(archive="a.zarr", output="a.enhanced")
    found = worker.breakdown(RuntimeError(text), recipe)
    assert (found.kind, "ward-7" in found.detail) == (kind, False)
    assert error in found.detail


@pytest.mark.parametrize("half", [False, True])
def test_onnx_runtime_computes_the_same_bits_where_it_records_cuda_graphs(bundle, half):
    plan, graphs = recording_plan(bundle, half=half)
    plan.record()
    assert same(
        walked(plan, bundle), walked(OnnxRuntime(half=half).load(bundle, CPU, BATCH), bundle)
    )
    assert graphs["denoiser"].recordings.keys() == {"1", "2"}
    assert graphs["denoiser"].replays == 4 * len(bundle.contract.sampler.ladder)


@pytest.mark.skipif(
    CUDA_PROVIDER in onnxruntime.get_available_providers(), reason="it has CUDA's code"
)
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_onnx_runtime_may_not_compute_on_the_cpu_in_the_place_of_a_gpu(bundle):
    with pytest.raises(DeviceError, match=r"^GPU 0: .*compute on the CPU; pip install"):
        OnnxRuntimeCuda().load(bundle, GPU, BATCH)


# --- whether to trust a device


@pytest.fixture(scope="module")
def fake_bundle(tmp_path_factory):
    """The arithmetic of the fake plan, as a bundle: the reference of `FakeBackend`."""
    return load_bundle(running.bundle(tmp_path_factory.mktemp("fake") / "bundle"))


def prepare_job(tmp_path, bundle, backend, **options):
    source = tmp_path / "a.zarr"
    if not source.exists():
        archive(source, 2)
    asked = job(source, tmp_path / "out", devices=TWO, plan="tensorrt", **options)
    return prepare(bundle, asked, backend, tmp_path)


def test_a_plan_that_mixes_cases_is_used_one_case_at_a_time(tmp_path, fake_bundle, capsys):
    backend = FakeBackend(change=by_slot)
    ready, _ = prepare_job(tmp_path, fake_bundle, backend, batch_size=None)
    assert backend.batches == [8, 1]
    assert ready.batch_size == 1
    assert "one at a time" in capsys.readouterr().err
    backend = FakeBackend(change=by_neighbours)
    with pytest.raises(DeviceError, match="depend on its neighbours"):
        prepare_job(tmp_path, fake_bundle, backend, batch_size=4)
    assert backend.batches == [4]


def test_a_plan_that_is_wrong_is_refused(tmp_path, fake_bundle):
    with pytest.raises(DeviceError, match="40 dB from float32"):
        prepare_job(tmp_path, fake_bundle, FakeBackend(change=lambda x: np.full_like(x, 0.02)))


def test_a_worker_does_not_use_a_plan_that_fails_on_its_device(fake_bundle):
    loader = Loader(backend=FakeBackend(change=by_slot), bundle=fake_bundle)
    with pytest.raises(RuntimeError, match="failed its self-test"):
        loader(GPU, BATCH)
    Loader(backend=FakeBackend(), bundle=fake_bundle)(GPU, BATCH)


MIXING = DENOISER.replace(
    "guess = Add(mean, noise)",
    "others = ReduceMean<keepdims = 1>(noise, first)\n    guess = Add(mean, others)",
).replace("<int64 ia = {2}", "<int64[1] first = {0}, int64 ia = {2}")
UNDEFINED = DENOISER.replace(
    "x_next = Add(ab, xc)", "zero = Sub(xc, xc)\n    x_next = Div(ab, zero)"
)


@pytest.mark.parametrize(
    ("denoiser", "said"), [(MIXING, "depend on its neighbours"), (UNDEFINED, "are not finite")]
)
def test_a_run_on_the_cpu_refuses_a_bundle_whose_results_cannot_be_trusted(
    tmp_path, monkeypatch, capsys, denoiser, said
):
    source = archive(tmp_path / "a.zarr", 2)
    bundle = running.bundle(tmp_path / "bundle", denoiser)
    words = ("run", "--input", source, "--bundle", bundle, "--devices", "cpu")
    assert command(monkeypatch, *words) == Exit.NO_DEVICE
    message = capsys.readouterr().err
    assert "CPU: onnxruntime cannot be trusted here" in message
    assert said in message
    assert not (tmp_path / "a.enhanced").exists()


def test_a_plan_that_cannot_be_loaded_leaves_no_usable_device(bundle, tmp_path):
    with pytest.raises(DeviceError, match="GPU 0"):
        prepare_plan(OnnxRuntimeCuda(), bundle, (GPU,), BATCH, tmp_path)


TRIAL = """
import signal, sys
from pathlib import Path
from mcdiff_batch.engine.backends.trial import prepare_plan
from mcdiff_batch.engine.model.plan import Device
from tests.support.simulated import EndlessBackend
signal.signal(signal.SIGINT, signal.default_int_handler)
prepare_plan(EndlessBackend(), None, (Device(kind="cuda", index=0),), 1, Path(sys.argv[1]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_process_that_compiles_a_plan_ends_with_its_parent(number, tmp_path):
    words = [sys.executable, "-c", TRIAL, str(tmp_path)]
    paths = os.pathsep.join(x for x in (*sys.path, str(Path(__file__).parents[2])) if x)
    options = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": paths}}
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, **options) as parent:
        try:
            wait_for(lambda: (tmp_path / "compiles").exists() or parent.poll() is not None)
            family = find_family(parent)
            assert family, parent.stderr.read()
            parent.send_signal(number)
            assert parent.wait(PATIENCE) == -number
            left = still_running(family)
            for process in left:
                process.kill()
            assert not left
        finally:
            parent.kill()


def test_a_run_keeps_its_plan_and_does_not_go_on_with_another(tmp_path, fake_bundle):
    folder, source = tmp_path / "plans", archive(tmp_path / "a.zarr", 2)
    folder.mkdir()
    (folder / "denoiser.plan").write_bytes(b"compiled")
    (folder / BUILD).write_text("{}")
    one = {"denoiser.plan": file_sha256(folder / "denoiser.plan")}
    asked = job(
        source, tmp_path / "out", plan="tensorrt", plan_folder=folder, plan_files=one, devices=TWO
    )
    enhance(asked, FakeMaker(), workers=InlineWorkers)
    assert (tmp_path / "out/plan/denoiser.plan").read_bytes() == b"compiled"
    stored = json.loads((tmp_path / "out/run.json").read_text())
    assert stored["settings"]["plan_files"] == one
    more = replace(asked, plan_folder=None, plan_files=None, batch_size=None)
    backend = FakeBackend(files=CompiledFiles(folder=folder, hashes=one))
    same, _ = prepare(fake_bundle, more, backend, tmp_path)
    assert (same.batch_size, same.plan_files) == (2, one)
    backend = FakeBackend(files=CompiledFiles(folder=folder, hashes={"denoiser.plan": "12ab"}))
    other, _ = prepare(fake_bundle, more, backend, tmp_path)
    with pytest.raises(FingerprintError, match="plan_files"):
        enhance(other, FakeMaker(), workers=InlineWorkers)


def test_the_versions_of_the_backend_are_part_of_the_fingerprint(tmp_path):
    asked = job(archive(tmp_path / "a.zarr", 2), tmp_path / "out", versions={"tensorrt": "1"})
    enhance(asked, FakeMaker(), workers=InlineWorkers)
    with pytest.raises(FingerprintError, match="software"):
        enhance(replace(asked, versions={"tensorrt": "2"}), FakeMaker(), workers=InlineWorkers)


def test_a_runs_own_copy_of_a_plan_is_found_again(bundle, tmp_path):
    first = plan_cache.plans(bundle, "sm_86", 1, tmp_path / "cache", print)
    copy = tmp_path / "plan"
    first.folder.rename(copy)
    again = plan_cache.plans(bundle, "sm_86", 1, tmp_path / "cache", print, copy)
    assert (again.from_cache, again.folder, again.hashes) == (True, copy, first.hashes)
    copy.chmod(0o777)
    assert not plan_cache.plans(bundle, "sm_86", 1, tmp_path / "other", print, copy).from_cache


# --- two GPUs, and what happens to them


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return archive(tmp_path_factory.mktemp("gpus") / "night.zarr", 12)


@pytest.fixture(scope="module")
def undisturbed(source):
    enhance(job(source, source.parent / "clean", unit_size=2), FakeMaker(), workers=InlineWorkers)
    return committed(source.parent / "clean")


def night(source, output, *faults, devices=TWO, **options):
    asked = job(source, output, unit_size=2, devices=devices, **options)
    return enhance(asked, FakeMaker(faults=faults, delay=0.02))


def test_both_gpus_get_work_and_the_bytes_are_those_of_one(source, tmp_path, undisturbed):
    """The first is held until the other has done a unit."""
    release = tmp_path / "release"

    def follow(at):
        if any(x.device == "cuda:1" and x.cases for x in at.devices):
            release.touch()

    asked = job(source, tmp_path / "out", unit_size=2, devices=TWO)
    maker = HostMaker(held=["cuda:0"], release=str(release))
    assert enhance(asked, maker, follow).exit_code == Exit.DONE
    lines = (tmp_path / "out/report/timings.jsonl").read_text().splitlines()
    assert {json.loads(x)["device"] for x in lines} == {"cuda:0", "cuda:1"}
    assert committed(tmp_path / "out") == undisturbed


@pytest.mark.parametrize("kind", ["cuda", "cuda memory", "hang", "kill"])
def test_a_gpu_that_stumbles_comes_back_and_nothing_is_lost(source, tmp_path, undisturbed, kind):
    once = fault(kind, source, 5, times=1, counter=tmp_path / "count")
    assert night(source, tmp_path / "out", once, limits=Limits(patience=4)).exit_code == Exit.DONE
    assert committed(tmp_path / "out") == undisturbed
    assert incidents(tmp_path / "out")


def test_a_lost_gpu_leaves_its_units_to_the_other(source, tmp_path, undisturbed):
    lost = fault("lost", device="cuda:0", counter=tmp_path / "count")
    found = night(source, tmp_path / "out", lost)
    assert found.exit_code == Exit.DONE
    assert committed(tmp_path / "out") == undisturbed
    assert set(incidents(tmp_path / "out")) <= {"fault", "device"}


@pytest.mark.parametrize(("found", "shared"), [(TWO, False), (SHARED, True)])
def test_out_of_memory_twice_on_a_gpu_names_the_batch_size(source, tmp_path, found, shared):
    with pytest.raises(DeviceError, match="--batch-size 2") as raised:
        night(source, tmp_path / "out", fault("cuda memory"), devices=found)
    assert ("name each GPU once" in str(raised.value)) == shared
