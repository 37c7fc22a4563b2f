"""Where an output can be in a store, and where it is refused."""

from pathlib import Path

import pytest

from mcdiff_batch.engine.cloud.place import Url, parse_place
from mcdiff_batch.engine.cloud.workspace import open_workspace
from mcdiff_batch.engine.errors import FingerprintError, McdiffError, UsageError
from mcdiff_batch.engine.output import durable
from tests.support import stores
from tests.support.running import inline, job
from tests.support.store_outputs import BOTH, Target
from tests.support.stores import Proxy


@BOTH
def test_the_files_of_an_output_are_the_same_in_a_folder_and_in_a_store(
    target: Target, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    for root in (folder, target.root):
        files = durable.files(root)
        assert list(files.list()) == []
        assert not files.exists("a/b")
        with pytest.raises(FileNotFoundError):
            files.read("a/b")
        with pytest.raises(FileNotFoundError):
            files.size("a/b")
        assert files.create("a/b", b"one")
        assert files.create("a/b", b"one")  # as after a lost answer
        assert not files.create("a/b", b"two")
        assert not files.replace("a/b", b"two", b"three")
        assert files.replace("a/b", b"one", b"three")
        files.write("a/c", b"line\nrest")
        assert (files.read("a/b"), files.size("a/c")) == (b"three", 9)
        assert sorted(files.list("a")) == ["b", "c"]
        assert [*files.list()] == ["a"] or set(files.list()) == {"a", durable.SCRATCH}
        names = ["a/c", "a/b"]
        assert [*files.read_all(names)] == [("a/c", b"line\nrest"), ("a/b", b"three")]
        assert [line.rstrip() for _, line in files.read_heads(names)] == [b"line", b"three"]
        files.remove("a/b")
        files.remove("a/b")
        assert list(files.list("a")) == ["c"]
        assert files.try_writing() == ""


def test_a_store_of_the_last_writer_is_refused_before_anything_is_written(
    night: Path, target: Target, proxy: Proxy
) -> None:
    proxy.unconditional = True
    with pytest.raises(UsageError, match="overwrites objects that it was asked to keep"):
        inline(job(night, target.root))
    assert target.files() == {}


def test_an_output_that_was_begun_with_other_settings_is_refused(
    night: Path, target: Target
) -> None:
    inline(job(night, target.root, limit=1))
    with pytest.raises(FingerprintError, match="seed was 0"):
        inline(job(night, target.root, seed=1))


def test_a_prefix_with_other_objects_is_refused(night: Path, target: Target) -> None:
    import obstore

    obstore.put(target.store, f"{target.url.prefix}/holiday.jpg", b"x")
    with pytest.raises(UsageError, match="contains files that no run has written"):
        inline(job(night, target.root))


def test_an_output_in_its_archive_is_refused(night: Path, target: Target) -> None:
    stores.upload(target.store, night, "study/night.zarr")
    source = Url("s3", target.url.bucket, "study/night.zarr")
    for place in (source, source / "out", parse_place(f"s3://{source.bucket}/study")):
        with pytest.raises(UsageError, match="choose another --output"):
            inline(job(source, open_workspace(place)))


def test_an_output_in_another_archive_or_output_is_refused(
    night: Path, target: Target, proxy: Proxy
) -> None:
    stores.upload(target.store, night, "study/other.zarr")
    inline(job(night, target.root, limit=1))
    for around in (Url("s3", target.url.bucket, "study/other.zarr"), target.url):
        for place in (around / "out", around / "images.zarr" / "deep"):
            with pytest.raises(UsageError, match=r"is in s3://.*choose another --output"):
                inline(job(night, open_workspace(place)))
    beside = Url("s3", target.url.bucket, "study/other.zarr2")
    assert inline(job(night, open_workspace(beside), limit=1)).counts["done"] == 1


def test_a_bucket_that_does_not_exist_is_called_so(night: Path, proxy: Proxy) -> None:
    with pytest.raises((OSError, McdiffError), match="no such bucket or container"):
        inline(job(night, open_workspace(Url("s3", "absent", "out"))))


def test_a_cache_that_cannot_be_written_to_is_called_so(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UsageError, match="set XDG_CACHE_HOME to a folder"):
        open_workspace(target.url)


def test_a_web_server_cannot_be_an_output(proxy: Proxy) -> None:
    with pytest.raises(UsageError, match="can only be read"):
        open_workspace(parse_place("https://host/out"))
