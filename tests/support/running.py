"""Small archives and jobs on the fake plan, for tests of the runtime."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.codecs import ZstdCodec

from mcdiff_batch.bench.common.mean_plan import contract
from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.cloud.place import Place
from mcdiff_batch.engine.files import file_sha256
from mcdiff_batch.engine.image.frame import Frame
from mcdiff_batch.engine.model.contract import Graph, Tensor, write_contract
from mcdiff_batch.engine.model.framing import frame_case
from mcdiff_batch.engine.model.plan import Device
from mcdiff_batch.engine.run.enhance import Summary, enhance
from mcdiff_batch.engine.run.job import Job
from tests.support import fake
from tests.support.fake import FakeMaker, Fault, InlineWorkers

CONTRACT = contract(Frame(height=32, width=16), depths=2)


def cpus(count: int) -> tuple[Device, ...]:
    return tuple(Device(kind="cpu", index=i) for i in range(count))


def archive(path: Path, cases: int, seed: int = 0, size: tuple[int, int] = (40, 16)) -> Path:
    """An archive of noise with a black margin; case k is the same whatever their number."""
    pixels = np.zeros((cases, 2, *size), np.uint8)
    for case in range(cases):
        noise = np.random.default_rng((seed, case)).integers(20, 250, (2, size[0], size[1] - 4))
        pixels[case, :, :, 2:-2] = noise
    group = zarr.create_group(path, attributes={"mcdiff": {"schema": 1, "pixel_spacing_mm": 10}})
    group.create_array(
        "depths",
        data=pixels,
        chunks=(1, *pixels.shape[1:]),
        compressors=ZstdCodec(checksum=True),
    )
    return path


def break_case(path: Path, case: int) -> None:
    """Flips a bit in the middle of a case's chunk."""
    chunk = path / f"depths/c/{case}/0/0/0"
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 4
    chunk.write_bytes(data)


def job(path: Place, output: Path, **options: object) -> Job:
    chosen: dict[str, object] = {"devices": cpus(1), "unit_size": 4, "batch_size": 2} | options
    opened = open_archive(path)
    return Job(archive=opened, output=output, contract=CONTRACT, bundle="fake", **chosen)  # type: ignore[arg-type]


def fault(kind: str, path: Path | None = None, case: int = 0, **more: object) -> Fault:
    """A fault at one case of an archive; without an archive, at any case."""
    name = ""
    if path is not None:
        name = fake.name(frame_case(open_archive(path).read(case), CONTRACT).depths)
    return Fault(kind=kind, case=name, **more)  # type: ignore[arg-type]


def clean(path: Path, output: Path, **options: object) -> dict[str, str]:
    """The files of an undisturbed run, as `committed` gives them."""
    enhance(job(path, output, **options), FakeMaker())
    return committed(output)


def committed(output: Path) -> dict[str, str]:
    """SHA-256 of every file whose bytes P1 promises."""
    files = [*(output / "images.zarr").rglob("*"), *(output / "ledger").rglob("*")]
    files.append(output / "manifest.json")
    return {
        str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.is_file()
    }


def image(output: Path, case: int, name: str = "enhanced") -> bytes:
    array = zarr.open_group(output / "images.zarr", mode="r")[name]
    assert isinstance(array, zarr.Array)
    return np.asarray(array[case]).tobytes()


CONDITIONER = """<ir_version: 8, opset_import: ["" : 18]>
conditioner (float[batch, depths, 32, 16] depths, float[batch, depths] weights,
             float[batch, 1, 32, 16] strip)
    => (uint8[batch, 32, 16] label, float[batch, 1, 32, 16] mean)
    <int64[2] last = {2, 3}, int64[1] one = {1}, float dark = {0.0}> {
    spread = Unsqueeze(weights, last)
    weighted = Mul(depths, spread)
    mean = ReduceSum<keepdims = 1>(weighted, one)
    flat = Squeeze(mean, one)
    below = Less(flat, dark)
    label = Cast<to = 2>(below)
}"""
DENOISER = """<ir_version: 8, opset_import: ["" : 18]>
denoiser (float[batch, 1, 32, 16] x, float[batch, 1, 32, 16] previous, float[1] t,
          float[5] coefficients, float[batch, 1, 32, 16] strip, float[batch, 1, 32, 16] scan,
          float[batch, 1, 32, 16] mean)
    => (float[batch, 1, 32, 16] x_next, float[batch, 1, 32, 16] x0)
    <int64 ia = {2}, int64 ib = {3}, int64 ic = {4}, float little = {0.02}, float bottom = {-1.0},
     float top = {1.0}> {
    noise = Mul(x, little)
    guess = Add(mean, noise)
    x0 = Clip(guess, bottom, top)
    a = Gather(coefficients, ia)
    b = Gather(coefficients, ib)
    c = Gather(coefficients, ic)
    xa = Mul(x, a)
    xb = Mul(x0, b)
    xc = Mul(previous, c)
    ab = Add(xa, xb)
    x_next = Add(ab, xc)
}"""


def bundle(root: Path, denoiser: str = DENOISER) -> Path:
    """The fake plan's arithmetic as a bundle of two ONNX graphs, for the real front door."""
    import onnx.parser

    root.mkdir()
    graphs = {}
    for name, text in {"conditioner": CONDITIONER, "denoiser": denoiser}.items():
        model = onnx.parser.parse_model(text)
        (root / f"{name}.onnx").write_bytes(model.SerializeToString())
        graphs[name] = Graph(
            file=f"{name}.onnx",
            sha256=file_sha256(root / f"{name}.onnx"),
            inputs=_tensors(model.graph.input),
            outputs=_tensors(model.graph.output),
        )
    write_contract(replace(CONTRACT, **graphs), root)
    return root


def _tensors(values: Iterable[Any]) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(
            name=value.name,
            dtype="float32",
            shape=tuple(x.dim_param or x.dim_value for x in value.type.tensor_type.shape.dim),
        )
        for value in values
    )


def inline(night: Job, **faults: Any) -> Summary:
    """A run in this process."""
    return enhance(night, FakeMaker(**faults), workers=InlineWorkers)


class PowerCut(BaseException):
    pass


@contextmanager
def cut_at(step: int, error: Callable[[], BaseException] = PowerCut) -> Iterator[None]:
    """Raises `error` in place of the `step`-th fsync or rename, as if the process ended there."""
    left = [step]

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise error()
            return real(*args)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", counted(os.fsync))
        patch.setattr(os, "replace", counted(os.replace))
        yield
