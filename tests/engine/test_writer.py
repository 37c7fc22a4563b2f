"""Shards and columns have the bytes that zarr would write, and zarr reads them."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.codecs import ZstdCodec
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore

from mcdiff_batch.engine.image.frame import Frame, Pixels
from mcdiff_batch.engine.output import arrays, durable, shards
from mcdiff_batch.engine.output.arrays import Files
from mcdiff_batch.engine.output.ledger import Entry
from mcdiff_batch.engine.output.shards import Layout

SIZE = 4
LAYOUT = Layout(cases=6, unit_size=SIZE, frame=Frame(height=32, width=16), grid=None)


def pictures(count: int = SIZE) -> Pixels:
    made = np.random.default_rng(0).integers(0, 256, (count, 32, 16), dtype=np.uint8)
    made[1] = 0
    return made


def by_zarr(chosen: dict[int, Pixels]) -> bytes:
    held: dict[str, Buffer] = {}
    array = zarr.create_array(
        MemoryStore(held),
        shape=(SIZE, 32, 16),
        shards=(SIZE, 32, 16),
        chunks=(1, 32, 16),
        dtype="u1",
        fill_value=0,
        compressors=ZstdCodec(checksum=True),
        config={"write_empty_chunks": True},
    )
    for slot, image in chosen.items():
        array[slot] = image
    return held["c/0/0/0"].to_bytes()


def shard(chosen: dict[int, Pixels]) -> bytes:
    chunks = {slot: shards.encode_chunk(image) for slot, image in chosen.items()}
    data = shards.encode_shard(chunks, SIZE)
    assert data is not None
    return data


def store(root: Path, files: Files) -> zarr.Group:
    for name, data in files.items():
        durable.write(root, name, data)
    return zarr.open_group(root / shards.FOLDER, mode="r")


def pixels(group: zarr.Group, name: str) -> np.ndarray:  # type: ignore[type-arg]
    array = group[name]
    assert isinstance(array, zarr.Array)
    return np.asarray(array[:])


@pytest.mark.parametrize("slots", [[0, 1, 2, 3], [0, 2], [3], [1]])
def test_a_shard_is_what_zarr_would_write(slots: list[int]) -> None:
    chosen = {slot: pictures()[slot] for slot in slots}
    assert shard(chosen) == by_zarr(chosen)


def test_a_shard_has_the_same_bytes_in_any_thread_and_order() -> None:
    chosen = {slot: pictures()[slot] for slot in (0, 1, 3)}
    turned = dict(reversed(chosen.items()))
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(shard, [chosen, turned] * 8)) == {shard(chosen)}


def test_a_unit_without_done_cases_has_no_shard(tmp_path: Path) -> None:
    assert shards.encode_shard({}, SIZE) is None
    shards.write(tmp_path, 0, {"enhanced": b"stale"})
    shards.write(tmp_path, 0, {"enhanced": None})
    assert shards.describe({"enhanced": None}) == {}
    assert not (tmp_path / shards.shard_name("enhanced", 0)).exists()


def test_zarr_reads_what_was_written(tmp_path: Path) -> None:
    """P5: a black image is stored; a case that is not done has no chunk at all."""
    group = store(tmp_path, arrays.metadata_files(LAYOUT, {"schema": 1}))
    made = pictures()
    shards.write(tmp_path, 0, {"enhanced": shard(dict(enumerate(made)))})
    shards.write(tmp_path, 1, {"enhanced": shard({1: made[2]})})
    found = pixels(group, "enhanced")
    assert np.array_equal(found[:4], made)
    assert np.array_equal(found[5], made[2])
    index = np.frombuffer(shard({1: made[1]})[-68:-4], "<u8").reshape(SIZE, 2)
    assert [bool(length != 2**64 - 1) for _, length in index] == [False, True, False, False]


def test_zarr_notices_a_flipped_bit(tmp_path: Path) -> None:
    group = store(tmp_path, arrays.metadata_files(LAYOUT, {}))
    data = bytearray(shard(dict(enumerate(pictures()))))
    data[200] ^= 1
    shards.write(tmp_path, 0, {"enhanced": bytes(data)})
    with pytest.raises(RuntimeError):
        pixels(group, "enhanced")


def test_columns_hold_one_value_a_case(tmp_path: Path) -> None:
    measured: dict[str, float | None] = {"cnr_log10_after": 9.5, "x": None}
    done = Entry(case=0, status="done", extent=(64, 16), quality=measured, flags=("dice",))
    entries = [done, Entry(case=1, status="failed"), Entry(case=2, status="skipped")]
    entries.append(Entry(case=4, status="open"))
    files = arrays.metadata_files(LAYOUT, {}) | arrays.column_files(LAYOUT, entries)
    group = store(tmp_path, files)
    assert pixels(group, "status").tolist() == [1, 2, 3, 0, 0, 0]
    assert pixels(group, "flagged").tolist() == [1, 0, 0, 0, 0, 0]
    assert pixels(group, "cnr_log10_after")[0] == 9.5
    assert np.isnan(pixels(group, "cnr_log10_after")[1:]).all()
    assert np.isnan(pixels(group, "x")).all()
    assert pixels(group, "scale")[0] == 0.5
    assert pixels(group, "left")[0] == 4
    assert group["status"].attrs["codes"] == {
        "not processed": 0,
        "done": 1,
        "failed": 2,
        "skipped": 3,
    }
    assert arrays.column_files(LAYOUT, entries) == arrays.column_files(LAYOUT, reversed(entries))


def test_the_input_grid_puts_an_image_back_where_it_was() -> None:
    layout = Layout(cases=1, unit_size=1, frame=LAYOUT.frame, grid=(80, 50))
    made = {"enhanced": pictures()[0], "label": pictures()[2] % 4}
    image, label = shards.to_grid(made, (64, 30), layout).values()
    assert image.shape == label.shape == layout.image == (80, 50)
    assert image[:64, :30].any()
    assert not image[64:].any()
    assert not label[:, 30:].any()
