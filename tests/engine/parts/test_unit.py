"""One unit with several writers: what is done is never given up."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from mcdiff_batch.engine.output import durable, ledger, runs, shards, verify
from mcdiff_batch.engine.output.ledger import Entry, Record
from tests.support.running import archive, break_case, image, inline, job


def make_record(opened: bool) -> tuple[Record, dict[str, bytes | None]]:
    """What two processes make of one unit: whole, or with an open case."""
    images: dict[str, bytes | None] = {"enhanced": b"short" if opened else b"whole, and longer"}
    status = ledger.OPEN if opened else ledger.DONE
    record = Record(
        unit=3,
        first=6,
        count=2,
        shards=shards.describe(images),
        cases=(Entry(case=6, status="done"), Entry(case=7, status=status)),
    )
    return record, images


def commit(root: Path, opened: bool) -> bool:
    """Whether the output then has an open case."""
    record, images = make_record(opened)
    return bool(runs.commit(root, record, images).counts[ledger.OPEN])


def test_a_record_with_open_cases_never_replaces_one_without_in_any_race(tmp_path: Path) -> None:
    with ProcessPoolExecutor(6, mp_context=get_context("fork")) as pool:
        for turn in range(12):
            root = tmp_path / str(turn)
            root.mkdir()
            kinds = [True, True, turn % 2 == 0, False, True, True]
            found = list(pool.map(commit, [root] * len(kinds), kinds))
            assert not found[3]
            assert ledger.read(root, 3) == make_record(opened=False)[0]
            assert (root / shards.shard_name("enhanced", 3)).read_bytes() == b"whole, and longer"


def test_nothing_is_committed_once_there_is_a_manifest(tmp_path: Path) -> None:
    assert commit(tmp_path, opened=True)
    durable.write(tmp_path, runs.MANIFEST, b"{}")
    assert commit(tmp_path, opened=False)  # the open case stays
    durable.remove(tmp_path, runs.MANIFEST)
    assert not commit(tmp_path, opened=False)


def test_an_image_that_is_done_is_never_given_up_when_the_archive_loses_its_case(
    tmp_path: Path,
) -> None:
    """`--retry-failed` does a whole unit again, and a case of it can be lost meanwhile."""
    path, out = archive(tmp_path / "night.zarr", 2), tmp_path / "out"
    sound = [(path / f"depths/c/{case}/0/0/0").read_bytes() for case in (0, 1)]
    break_case(path, 1)
    assert inline(job(path, out, unit_size=2)).counts["failed"] == 1
    before = image(out, 0)
    (path / "depths/c/1/0/0/0").write_bytes(sound[1])
    break_case(path, 0)
    for _ in range(2):
        again = inline(job(path, out, unit_size=2, retry_failed=True))
        assert (again.counts["done"], again.counts["failed"]) == (1, 1)
        assert image(out, 0) == before
        assert list(verify.find_damage(out)) == []
    (path / "depths/c/0/0/0/0").write_bytes(sound[0])
    assert inline(job(path, out, unit_size=2, retry_failed=True)).counts["done"] == 2
    assert image(out, 0) == before


def begin(root: Path, text: str) -> bool:
    return durable.create(root, "run.json", text.encode() * 9999)


@pytest.mark.parametrize("links", [True, False])
def test_one_of_many_creates_a_file_and_nobody_sees_half_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def refuse(path: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr(Path, "hardlink_to", refuse)
    with ProcessPoolExecutor(6 if links else 1, mp_context=get_context("fork")) as pool:
        for turn in range(8):
            root = tmp_path / str(turn)
            won = list(pool.map(begin, [root] * 6, "abcdef"))
            assert sum(won) == 1
            assert (root / "run.json").read_bytes() == "abcdef"[won.index(True)].encode() * 9999
            assert begin(root, "abcdef"[won.index(True)])  # the answer may have been lost
            assert list((root / durable.SCRATCH).iterdir()) == []
