"""images.zarr, but for its shards: the group's metadata, and the columns written at the end."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import ZstdCodec
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore

from mcdiff_batch.engine.image.frame import Frame, place

from .ledger import DONE, FAILED, SKIPPED, Entry
from .shards import FOLDER, Layout

CODES = {DONE: 1, FAILED: 2, SKIPPED: 3}  # 0: not processed
CODED = {"status": {"not processed": 0, **CODES}, "flagged": {"no": 0, "look at it first": 1}}
PLACEMENT = ("scale", "top", "left", "height", "width")
Files = dict[str, bytes]  # by name in the output


def files(layout: Layout, about: Mapping[str, Any]) -> Files:
    """The group's metadata, to be written before the first unit; `about` goes to its attributes."""
    held: dict[str, Buffer] = {}
    group = zarr.create_group(MemoryStore(held), attributes={"mcdiff": dict(about)})
    for name in layout.images:
        group.create_array(
            name,
            shape=(layout.cases, *layout.image),
            shards=(layout.unit_size, *layout.image),
            chunks=(1, *layout.image),
            dtype="u1",
            fill_value=0,
            compressors=ZstdCodec(checksum=True),
            dimension_names=("case", "y", "x"),
        )
    return _named(held)


def columns(layout: Layout, entries: Iterable[Entry]) -> Files:
    """One value a case, [cases]: status, flagged, quality, where the image lies on the frame."""
    table: dict[str, npt.NDArray[Any]] = {x: np.zeros(layout.cases, np.uint8) for x in CODED}
    for entry in entries:
        table["status"][entry.case] = CODES.get(entry.status, 0)
        table["flagged"][entry.case] = bool(entry.flags)
        for name, value in _measures(entry, layout.frame).items():
            if name not in table:
                table[name] = np.full(layout.cases, np.nan, np.float32)
            table[name][entry.case] = np.nan if value is None else value
    held: dict[str, Buffer] = {}
    group = zarr.create_group(MemoryStore(held))
    for name, values in sorted(table.items()):
        _column(group, name, values)
    return {name: data for name, data in _named(held).items() if name != f"{FOLDER}/zarr.json"}


def _measures(entry: Entry, frame: Frame) -> dict[str, float | None]:
    where = place(entry.extent, frame).as_dict() if entry.extent else {}
    return {**entry.quality, **{name: where[name] for name in PLACEMENT if where}}


def _column(group: zarr.Group, name: str, values: npt.NDArray[Any]) -> None:
    group.create_array(
        name,
        data=values,
        chunks=(max(1, len(values)),),
        fill_value=0 if name in CODED else float("nan"),
        compressors=ZstdCodec(checksum=True),
        dimension_names=("case",),
        attributes={"codes": CODED[name]} if name in CODED else {},
        config={"write_empty_chunks": True},
    )


def _named(held: Mapping[str, Buffer]) -> Files:
    return {f"{FOLDER}/{key}": buffer.to_bytes() for key, buffer in held.items()}
