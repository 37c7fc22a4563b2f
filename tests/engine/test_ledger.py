"""Ledger records, and files that are complete or absent."""

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcdiff_batch.engine.errors import McdiffError, SpaceError
from mcdiff_batch.engine.output import durable, ledger
from mcdiff_batch.engine.output.ledger import DamagedRecord, Entry, Incident, Record, Shard

NUMBERS = st.none() | st.floats(-100, 100).map(lambda x: round(x, 4))
ENTRIES = st.builds(
    Entry,
    case=st.integers(0, 10**6),
    status=st.sampled_from(ledger.STATUSES),
    reason=st.text(max_size=9),
    detail=st.text(max_size=30),
    extent=st.none() | st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    optimal=st.none() | st.integers(0, 4),
    quality=st.dictionaries(st.sampled_from(["cnr_log10_after", "snr_log10_after"]), NUMBERS),
)
RECORDS = st.builds(
    Record,
    unit=st.integers(0, 10**7),
    first=st.integers(0, 10**8),
    count=st.integers(1, 64),
    shards=st.dictionaries(
        st.sampled_from(["enhanced", "label"]),
        st.builds(Shard, bytes=st.integers(1, 10**9), sha256=st.just("0" * 64)),
    ),
    cases=st.lists(ENTRIES, max_size=4).map(tuple),
)


def record(**more: object) -> Record:
    fields = {"unit": 3, "first": 6, "count": 2, "shards": {}}
    cases = (Entry(case=6, status="done"), Entry(case=7, status="failed", reason="nan"))
    return Record(**{**fields, "cases": cases, **more})  # type: ignore[arg-type]


@given(RECORDS)
def test_a_record_is_read_as_it_was_written(written: Record) -> None:
    data = ledger.encode(written)
    assert ledger.decode(data) == written
    assert ledger.encode(ledger.decode(data)) == data


def test_the_first_line_of_a_record_is_all_that_resume_reads(tmp_path: Path) -> None:
    ledger.write(tmp_path, record())
    (head,) = ledger.read_heads(tmp_path)
    assert head == record().head == ledger.read(tmp_path, 3).head
    assert head.counts == {"done": 1, "failed": 1, "skipped": 0, "open": 0}


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"{}", b'"x"', b"\xff\x00", b"null\n", b"[" + b"9" * 99 + b"]"]
)
def test_a_torn_record_counts_as_not_done(tmp_path: Path, data: bytes) -> None:
    durable.write(tmp_path, ledger.file_name(3), data)
    with pytest.raises(DamagedRecord):
        ledger.read(tmp_path, 3)
    with pytest.raises(DamagedRecord):
        ledger.decode_head(data.partition(b"\n")[0])
    assert list(ledger.read_heads(tmp_path)) == []


def test_a_record_with_a_misspelled_field_counts_as_not_done() -> None:
    with pytest.raises(DamagedRecord, match="qality"):
        ledger.decode(ledger.encode(record()).replace(b"quality", b"qality", 1))
    with pytest.raises(DamagedRecord, match="flaged"):
        ledger.decode(ledger.encode(record()).replace(b"flagged", b"flaged", 1))


def test_units_are_listed_by_number(tmp_path: Path) -> None:
    for unit in (10, 2, 1_000_000):
        ledger.write(tmp_path, record(unit=unit))
    assert ledger.list_units(tmp_path) == [2, 10, 1_000_000]


def test_incidents_are_appended(tmp_path: Path) -> None:
    ledger.append_incident(tmp_path, Incident(kind="hang", detail="x\ny", unit=0))
    ledger.append_incident(tmp_path, Incident(kind="killed", detail="", case=0))
    lines = (tmp_path / ledger.INCIDENTS).read_text().splitlines()
    assert len(lines) == 2
    assert '"unit":0' in lines[0]
    assert '"case":0' in lines[1]


def test_a_durable_write_leaves_no_temporary_file(tmp_path: Path) -> None:
    durable.write(tmp_path, "a/b/c", b"one")
    durable.write(tmp_path, "a/b/c", b"two")
    assert (tmp_path / "a/b/c").read_bytes() == b"two"
    assert list((tmp_path / durable.SCRATCH).iterdir()) == []
    durable.remove(tmp_path, "a/b/c")
    durable.remove(tmp_path, "a/b/c")
    assert not (tmp_path / "a/b/c").exists()


@contextmanager
def small_files(limit: int) -> Iterator[None]:
    """No file may grow beyond `limit` bytes: EFBIG, as a full disk would give ENOSPC."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_a_space_error_and_leaves_the_old_file(tmp_path: Path) -> None:
    durable.write(tmp_path, "x", b"old")
    with small_files(1 << 20), pytest.raises(SpaceError, match="run the same"):
        durable.write(tmp_path, "x", b"\1" * (2 << 20))
    assert (tmp_path / "x").read_bytes() == b"old"
    assert list((tmp_path / durable.SCRATCH).iterdir()) == []


def test_a_failed_fsync_is_never_taken_for_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    durable.write(tmp_path, "x", b"old")
    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(McdiffError, match="Input/output"):
        durable.write(tmp_path, "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"old"


def test_temporary_files_of_a_killed_run_are_deleted(tmp_path: Path) -> None:
    durable.write(tmp_path, "x", b"kept")
    (tmp_path / durable.SCRATCH / "77-x").write_bytes(b"half")
    durable.clear_scratch(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
