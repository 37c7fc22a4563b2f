"""Makes good and damaged archives, and a contract without a model, for tests."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zarr
from zarr.codecs import ZstdCodec

from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.cli import main
from mcdiff_batch.engine.errors import CaseError
from mcdiff_batch.engine.image.frame import Frame
from mcdiff_batch.engine.model.contract import Contract, Graph, Sampler, Tensor
from mcdiff_batch.engine.model.schedule import Schedule

MAIN = "from mcdiff_batch.engine.start import main; main()"
CLI = [sys.executable, "-c", MAIN]  # the program in a process of its own
WEIGHTS = (0.1, 0.3, 0.3, 0.2, 0.1)
CHECKED = ZstdCodec(level=3, checksum=True)
Json = dict[str, Any]


def pictures(
    cases: int = 3, depths: int = 5, size: tuple[int, int] = (40, 16), dtype: str = "u1"
) -> npt.NDArray[Any]:
    """Random images [case, depth, y, x] over the default range of the dtype."""
    values = np.random.default_rng(0).integers(0, 256, (cases, depths, *size))
    kind = np.dtype(dtype)
    scaled = values / 255 if kind.kind == "f" else values * (257 if kind.itemsize == 2 else 1)
    return np.asarray(scaled.astype(kind))


def write_archive(
    path: Path,
    depths: npt.NDArray[Any],
    *,
    zarr_format: int = 3,
    attributes: Json | None = None,
    columns: dict[str, npt.NDArray[Any]] | None = None,
    **storage: Any,
) -> Path:
    """Writes `depths` and columns with zarr.

    storage: arguments for zarr; by default, one case per chunk.
    """
    group = zarr.create_group(
        path, zarr_format=zarr_format, attributes={"mcdiff": attributes} if attributes else {}
    )
    storage = {"chunks": (1, *depths.shape[1:])} | storage
    if zarr_format == 3:
        storage = {"compressors": CHECKED} | storage
    _fill(group, "depths", depths, **storage)
    for name, values in (columns or {}).items():
        _fill(group, name, values, chunks=values.shape)
    return path


def _fill(group: zarr.Group, name: str, values: npt.NDArray[Any], **storage: Any) -> None:
    dtype = "string" if values.dtype == object else values.dtype
    storage = {"config": {"write_empty_chunks": True}} | storage
    array = group.create_array(name, shape=values.shape, dtype=dtype, **storage)
    array[...] = values


def ids(*names: str) -> npt.NDArray[Any]:
    return np.array(names, object)


def edit(path: Path, change: Callable[[Json], object]) -> None:
    """Changes a JSON document in place."""
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def chunk(archive: Path, index: int) -> Path:
    """The file of a case in an archive that `write_archive` made."""
    return archive / "depths" / "c" / str(index) / "0" / "0" / "0"


def raw_archive(path: Path, shape: tuple[int, ...], codecs: list[Json], **fields: Any) -> Path:
    """Writes only metadata: a v3 group with `depths`, u1, one case per chunk.

    fields: changes to the metadata of `depths`.
    """
    group = {"zarr_format": 3, "node_type": "group", "attributes": {}}
    array = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": (1, *shape[1:])}},
        "chunk_key_encoding": {"name": "default"},
        "fill_value": 0,
        "codecs": codecs,
        "attributes": {},
    } | fields
    (path / "depths").mkdir(parents=True)
    (path / "zarr.json").write_text(json.dumps(group))
    (path / "depths" / "zarr.json").write_text(json.dumps(array))
    return path


def put_chunk(archive: Path, index: int, data: bytes) -> None:
    chunk(archive, index).parent.mkdir(parents=True, exist_ok=True)
    chunk(archive, index).write_bytes(data)


def reason(archive: Path, index: int) -> str:
    """The reason why a case fails."""
    with pytest.raises(CaseError) as caught:
        open_archive(archive).read(index)
    assert str(archive) not in str(caught.value)  # P1, P10: no paths in the ledger
    return caught.value.reason


def snapshot(root: Path) -> dict[str, bytes]:
    """The bytes of every file under `root`."""
    return {str(x.relative_to(root)): x.read_bytes() for x in root.rglob("*") if x.is_file()}


def contract(
    *, height: int = 32, width: int = 16, depth_weights: tuple[float, ...] = WEIGHTS
) -> Contract:
    """The contract of a small model, whose graphs do not exist."""
    image = Tensor(name="x", dtype="float32", shape=("batch", 1, height, width))
    graph = Graph(file="none.onnx", sha256="", inputs=(image,), outputs=(image,))
    return Contract(
        name="test",
        frame=Frame(height=height, width=width),
        depth_weights=depth_weights,
        classes=("background", "rib", "process", "lump"),
        schedule=Schedule(),
        sampler=Sampler(
            solver="ddim", ladder=(500.0,), nfe=1, psnr_median_db=0, psnr_min_db=0, cases=0
        ),
        conditioner=graph,
        denoiser=graph,
    )


def command(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """Runs `mcdiff-batch words...` in this process and returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["mcdiff-batch", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def memory_of_bomb(codec: str, data: bytes) -> int:
    """KiB by which a process grows that finds `data` corrupt, where 3200 bytes were declared."""
    code = (
        "import resource, sys\n"
        "from mcdiff_batch.engine.archive.codecs import CorruptError, Codec, unpack\n"
        "data = sys.stdin.buffer.read()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: unpack(data, (Codec(name=sys.argv[1]),), 3200)\n"
        "except CorruptError: pass\n"
        "else: sys.exit(1)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    words = [sys.executable, "-c", code, codec]
    return int(subprocess.run(words, input=data, capture_output=True, check=True).stdout)
