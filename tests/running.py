"""Small archives and jobs on the fake plan, for tests of the runtime."""

import hashlib
from pathlib import Path

import numpy as np
import zarr
from mcdiff_batch.engine import fake
from mcdiff_batch.engine.archive import open_archive
from mcdiff_batch.engine.enhancer import enhance
from mcdiff_batch.engine.fake import FakeMaker, Fault
from mcdiff_batch.engine.frame import Frame
from mcdiff_batch.engine.job import Job
from mcdiff_batch.engine.plan import Device
from mcdiff_batch.engine.reader import frame_case
from zarr.codecs import ZstdCodec

CONTRACT = fake.contract(Frame(height=32, width=16), depths=2)


def cpus(count: int) -> tuple[Device, ...]:
    return tuple(Device(kind="cpu", index=i) for i in range(count))


def archive(path: Path, cases: int, seed: int = 0, size: tuple[int, int] = (40, 16)) -> Path:
    """An archive of noise with a black margin; case k is the same whatever their number."""
    pixels = np.zeros((cases, 2, *size), np.uint8)
    for case in range(cases):
        noise = np.random.default_rng((seed, case)).integers(20, 250, (2, size[0], size[1] - 4))
        pixels[case, :, :, 2:-2] = noise
    group = zarr.create_group(path, attributes={"mcdiff": {"schema": 1, "pixel_spacing_mm": 0.5}})
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


def job(path: Path, output: Path, **options: object) -> Job:
    chosen: dict[str, object] = {"devices": cpus(1), "unit_size": 4, "batch_size": 2} | options
    return Job(archive=path, output=output, contract=CONTRACT, bundle="fake", **chosen)  # type: ignore[arg-type]


def fault(kind: str, path: Path | None = None, case: int = 0, **more: object) -> Fault:
    """A fault at one case of an archive; with no archive, at any."""
    name = ""
    if path is not None:
        name = fake.name(frame_case(open_archive(path).read(case), CONTRACT).depths)
    return Fault(kind=kind, case=name, **more)  # type: ignore[arg-type]


def clean(path: Path, output: Path, **options: object) -> dict[str, str]:
    """What an undisturbed run comes to."""
    enhance(job(path, output, **options), FakeMaker())
    return committed(output)


def committed(output: Path) -> dict[str, str]:
    """SHA-256 of every file that P1 speaks of."""
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
