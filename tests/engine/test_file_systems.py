"""File systems that lack something, disks that fail, other users: what holds, and what is said."""

import errno
import fcntl
import os
import stat
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from mcdiff_batch.engine.errors import (
    Exit,
    McdiffError,
    OutputLockedError,
    SpaceError,
    UsageError,
    explain,
)
from mcdiff_batch.engine.output import durable, ledger, locks, verify
from tests.support.crafting import command
from tests.support.running import archive, clean, committed, fault, inline, job

PLACES = (Path(sys.prefix), Path(__file__).parent, Path(tempfile.gettempdir()))
PUBLIC = all(x.stat().st_mode & 1 for path in PLACES for x in (path, *path.parents))
ROOT = pytest.mark.skipif(
    os.getuid() != 0 or not PUBLIC,
    reason="only root can become another user, who must be able to read the program",
)
GROUP, ANNA, BERT, READER = 3000, 2001, 2002, 2003


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archive(tmp_path_factory.mktemp("file_systems") / "night.zarr", 4)


@pytest.fixture(scope="module")
def whole(source: Path) -> dict[str, str]:
    return clean(source, source.parent / "whole", unit_size=2)


def refuse_folders(monkeypatch: pytest.MonkeyPatch, code: int, under: str = "") -> None:
    """The answer of a file system to fsync of a folder whose path holds `under`."""
    real = os.fsync

    def fsync(descriptor: int) -> None:
        path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) and under in path:
            raise OSError(code, os.strerror(code))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("name", ["EINVAL", "ENOTSUP", "ENOSYS", "EBADF", "EACCES"])
def test_a_share_that_cannot_sync_folders_works_with_one_warning(
    source: Path,
    tmp_path: Path,
    whole: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    refuse_folders(monkeypatch, getattr(errno, name))
    assert inline(job(source, tmp_path / "out", unit_size=2)).exit_code == Exit.DONE
    assert committed(tmp_path / "out") == whole
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {tmp_path}/out: ")
    assert "a power cut may take back the last units" in line


@pytest.mark.parametrize("under", ["/ledger", "/label/c/1"])
def test_a_folder_that_fails_to_sync_is_no_success_now_or_later(
    source: Path, tmp_path: Path, whole: dict[str, str], under: str
) -> None:
    """The name that could not be synced is taken back, so the next run does not trust it."""
    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        refuse_folders(patch, errno.EIO, under)
        with pytest.raises(McdiffError, match="Input/output error"):
            inline(job(source, out, unit_size=2))
    assert 1 not in ledger.list_units(out)
    assert list(verify.find_damage(out)) == []
    inline(job(source, out, unit_size=2))
    assert committed(out) == whole


def test_names_that_a_killed_run_left_are_synced_before_they_are_trusted(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    inline(job(source, out, unit_size=2))
    synced: set[str] = set()
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.add(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    inline(job(source, out, unit_size=2))
    names = ("", "ledger", "images.zarr", "images.zarr/label/c", "images.zarr/enhanced/c")
    assert {str(out / name).rstrip("/") for name in names} | {str(tmp_path)} <= synced


@pytest.mark.parametrize("name", ["ENOLCK", "ENOTSUP", "ENOSYS", "EINVAL"])
def test_a_file_system_without_locks_is_refused_with_a_remedy(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """P7 cannot be kept there.  `status` takes it that nobody runs."""
    out = tmp_path / "out"

    def flock(descriptor: int, kind: int) -> None:
        raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(UsageError, match=r"gives no lock .* choose an --output on a local disk"):
        inline(job(source, out))
    assert not locks.is_running(out)
    assert {x.name for x in out.iterdir()} == {".lock"}


def test_a_part_of_the_output_on_another_disk_is_named(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replace(path: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(McdiffError, match="keep all of its folders on one file system"):
        inline(job(source, tmp_path / "out"))


# --- records for people


@pytest.mark.parametrize("lost", ["report/timings.jsonl", "report/spans/first.jsonl"])
def test_a_record_for_people_that_cannot_be_written_ends_no_run(
    source: Path,
    tmp_path: Path,
    whole: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    lost: str,
) -> None:
    out = tmp_path / "out"
    (out / lost).mkdir(parents=True)  # a folder is in its place
    assert inline(job(source, out, unit_size=2)).exit_code == Exit.DONE
    assert committed(out) == whole
    (line,) = capsys.readouterr().err.splitlines()
    assert "the run goes on, but its report will lack something" in line


def test_an_incident_that_cannot_be_written_is_told(
    source: Path, tmp_path: Path, whole: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The ledger has the case as open, so the next run tries it again all the same."""
    out = tmp_path / "out"
    (out / "incidents.jsonl").mkdir(parents=True)
    found = inline(job(source, out, unit_size=2), faults=(fault("nan", source, 1),))
    assert (found.exit_code, found.incidents) == (Exit.FAILED_CASES, 1)
    assert "incident: model, the model's result holds NaN" in capsys.readouterr().err
    assert inline(job(source, out, unit_size=2)).exit_code == Exit.DONE
    assert committed(out) == whole


def test_a_line_that_was_cut_short_spoils_only_itself(tmp_path: Path) -> None:
    from mcdiff_batch.engine.files import append_json, json_lines

    path = tmp_path / "lines.jsonl"
    path.write_text('{"a": 1}\n{"b": 2, "cut')
    append_json(path, {"c": 3})
    assert list(json_lines(path)) == [{"a": 1}, {"c": 3}]


# --- other users


def as_user(user: int, work: Callable[[], object], umask: int = 0o002) -> int:
    """Exit code of `work` in a process of another user of GROUP; 99: it raised."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.umask(umask)
            os.setgroups([])
            os.setgid(GROUP)
            os.setuid(user)
            code = int(work() or 0)  # type: ignore[call-overload]
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder for all of GROUP.  Those of pytest are for their owner only."""
    with tempfile.TemporaryDirectory() as name:
        os.chown(name, ANNA, GROUP)
        Path(name).chmod(0o2775)
        yield Path(name)


def hold(root: Path) -> None:
    with locks.lock(root):
        durable.write(root, "ledger/000000.json", b"{}")


@ROOT
def test_two_users_of_a_group_share_an_output(shared: Path) -> None:
    out = shared / "out"
    assert as_user(ANNA, lambda: hold(out)) == 0
    assert as_user(BERT, lambda: hold(out)) == 0
    assert stat.S_IMODE((out / ".lock").stat().st_mode) == 0o664
    assert (out / "ledger/000000.json").stat().st_uid == BERT


@ROOT
def test_a_lock_file_that_only_its_owner_may_write_is_enough(shared: Path) -> None:
    """Outputs of earlier versions have such a file."""
    out = shared / "out"
    as_user(ANNA, lambda: hold(out))
    (out / ".lock").chmod(0o644)
    assert as_user(BERT, lambda: hold(out)) == 0


@ROOT
def test_the_lock_of_another_user_holds(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "LOCK_WAIT", 0.1)
    out = shared / "out"
    as_user(ANNA, lambda: hold(out))

    def refused() -> bool:
        try:
            hold(out)
        except OutputLockedError:
            return False
        return True

    with locks.lock(out):
        assert as_user(BERT, refused) == 0


@ROOT
def test_who_may_only_read_can_look_and_is_told_what_else_it_takes(
    source: Path, shared: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out = shared / "out"
    inline(job(source, out, unit_size=2))
    words = ("status", "verify", "report")
    look = {word: partial(command, monkeypatch, word, out) for word in words}
    for work in look.values():
        assert work() == 0  # as root: what it imports is imported
    capfd.readouterr()
    assert as_user(READER, look["status"]) == 0
    assert as_user(READER, look["verify"]) == 0
    assert as_user(READER, look["report"]) == Exit.USAGE
    assert "Permission denied" in capfd.readouterr().err


@ROOT
def test_an_output_of_another_user_is_refused_before_any_work(shared: Path) -> None:
    source, out = archive(shared / "night.zarr", 4), shared / "out"
    inline(job(source, out, unit_size=2, limit=2))

    def refused() -> bool:
        try:
            inline(job(source, out, unit_size=2))
        except UsageError as error:
            return "ask its owner" not in str(error)
        return True

    assert as_user(READER, refused) == 0


# --- what an error of the system becomes


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("ENOSPC", SpaceError, "free some space"),
        ("EDQUOT", SpaceError, "free some space"),
        ("EROFS", UsageError, "can be written to"),
        ("EACCES", UsageError, "ask its owner"),
        ("ENAMETOOLONG", UsageError, "a shorter name"),
        ("ENOTDIR", UsageError, "in the place of a folder"),
        ("EMFILE", McdiffError, "ulimit -n"),
        ("ESTALE", McdiffError, "mount it again"),
        ("EIO", McdiffError, "repair the disk"),
        ("ETIMEDOUT", McdiffError, "repair the disk"),
    ],
)
def test_an_error_of_the_system_says_what_to_do(
    name: str, kind: type[McdiffError], said: str
) -> None:
    code = getattr(errno, name)
    error = explain(OSError(code, os.strerror(code), "/data/x"))
    assert type(error) is kind
    assert str(error).startswith("/data/x: ")
    assert said in str(error)
    assert os.strerror(code) in str(error)


def test_a_place_that_was_usable_until_now_is_not_the_users_mistake() -> None:
    error = OSError(errno.EROFS, "Read-only file system", "/data/x")
    assert explain(error, named=False).exit_code == Exit.UNEXPECTED
    assert explain(error).exit_code == Exit.USAGE
