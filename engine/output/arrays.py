"""The files of images.zarr other than shards: the metadata, and the columns written at the end."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import ZstdCodec
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore

from mcdiff_batch.engine.archive.archive import Archive
from mcdiff_batch.engine.image.frame import Frame, place

from .ledger import DONE, FAILED, SKIPPED, Entry
from .shards import FOLDER, Layout

CODES = {DONE: 1, FAILED: 2, SKIPPED: 3}  # 0: not processed
CODED = {"status": {"not processed": 0, **CODES}, "flagged": {"no": 0, "look at it first": 1}}
PLACEMENT = ("scale", "top", "left", "height", "width")
DIMENSIONS = ("case", "y", "x")  # of the image arrays
Files = dict[str, bytes]  # by name in the output


def metadata_files(
    layout: Layout, about: Mapping[str, Any], pixel_mm: tuple[float, float] | None = None
) -> Files:
    """Metadata of the group and the image arrays, written before the first unit.

    about: the group's attribute `mcdiff`; pixel_mm: the size of a px, y and x, for the attribute
    `ome`, by which viewers of OME-Zarr 0.5 find the arrays; None: not known, or not the same for
    all cases.
    """
    buffers: dict[str, Buffer] = {}
    ome = {"version": "0.5", "multiscales": [_multiscale(x, pixel_mm) for x in layout.images]}
    attributes = {"mcdiff": dict(about), "ome": ome}
    group = zarr.create_group(MemoryStore(buffers), attributes=attributes)
    for name in layout.images:
        group.create_array(
            name,
            shape=(layout.cases, *layout.image),
            shards=(layout.unit_size, *layout.image),
            chunks=(1, *layout.image),
            dtype="u1",
            fill_value=0,
            compressors=ZstdCodec(checksum=True),
            dimension_names=DIMENSIONS,
        )
    return _files(buffers)


def _multiscale(array: str, pixel_mm: tuple[float, float] | None) -> dict[str, Any]:
    """An image array as OME-Zarr describes it.  The cases are no channels: they are looked at one
    after the other, not beside each other."""
    unit = {"unit": "millimeter"} if pixel_mm else {}
    space = [{"name": name, "type": "space", **unit} for name in DIMENSIONS[1:]]
    scale = [1.0, *(pixel_mm or (1.0, 1.0))]
    return {
        "name": array,
        "axes": [{"name": DIMENSIONS[0], "type": "case"}, *space],
        "datasets": [
            {"path": array, "coordinateTransformations": [{"type": "scale", "scale": scale}]}
        ],
    }


def find_pixel_size(archive: Archive, layout: Layout) -> tuple[float, float] | None:
    """The size in mm of a px of the image arrays, y and x; None unless all cases have the same."""
    own, extents = archive.columns.pixel_spacing_mm, archive.columns.extent
    sizes = np.array([archive.spacing_mm]) if own is None else own
    if layout.grid is None:
        shown = np.array([archive.grid]) if extents is None else np.maximum(extents, 1)
        frame = (layout.frame.height, layout.frame.width)
        sizes = sizes / (frame / shown).min(axis=1, keepdims=True)
    if not (np.isfinite(sizes) & (sizes > 0)).all() or (sizes != sizes[0]).any():
        return None
    y, x = sizes[0].tolist()
    return y, x


def column_files(layout: Layout, entries: Iterable[Entry]) -> Files:
    """Arrays of one value per case: status, flagged, quality, and the place of the image."""
    table: dict[str, npt.NDArray[Any]] = {x: np.zeros(layout.cases, np.uint8) for x in CODED}
    for entry in entries:
        table["status"][entry.case] = CODES.get(entry.status, 0)
        table["flagged"][entry.case] = bool(entry.flags)
        for name, value in _measures(entry, layout.frame).items():
            if name not in table:
                table[name] = np.full(layout.cases, np.nan, np.float32)
            table[name][entry.case] = np.nan if value is None else value
    buffers: dict[str, Buffer] = {}
    group = zarr.create_group(MemoryStore(buffers))
    for name, values in sorted(table.items()):
        _column(group, name, values)
    return {name: data for name, data in _files(buffers).items() if name != f"{FOLDER}/zarr.json"}


def _measures(entry: Entry, frame: Frame) -> dict[str, float | None]:
    placement = place(entry.extent, frame).as_dict() if entry.extent else {}
    return {**entry.quality, **{name: placement[name] for name in PLACEMENT if placement}}


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


def _files(buffers: Mapping[str, Buffer]) -> Files:
    return {f"{FOLDER}/{key}": buffer.to_bytes() for key, buffer in buffers.items()}
