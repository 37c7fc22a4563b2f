"""Other users of the machine get neither the page of a review nor its verdicts."""

import os
import shutil
import stat
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mcdiff_batch.engine.errors import UsageError
from mcdiff_batch.engine.output import verdicts
from mcdiff_batch.engine.output.verdicts import Verdict, append
from tests.support.review import Page, ask, become

ROOT = os.geteuid() == 0
NOBODY = 65534


@pytest.mark.parametrize("mode", [0o700, 0o750, 0o770, 0o755, 0o2775])
def test_nobody_can_read_the_verdicts_who_cannot_read_the_output(tmp_path: Path, mode: int) -> None:
    root = tmp_path / "out"
    root.mkdir()
    root.chmod(mode)
    old = os.umask(0o022)
    try:
        append(root, Verdict(case=0, pixels="p", verdict="accept"))
    finally:
        os.umask(old)
    assert stat.S_IMODE((root / "review").stat().st_mode) == mode
    assert stat.S_IMODE((root / verdicts.FILE).stat().st_mode) == mode & 0o666


def test_a_link_in_the_place_of_the_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "review").mkdir()
    (tmp_path / "foreign").write_text("")
    (tmp_path / verdicts.FILE).symlink_to(tmp_path / "foreign")
    with pytest.raises(Exception, match="the verdict was not stored"):
        append(tmp_path, Verdict(case=0, pixels="p", verdict="accept"))
    assert (tmp_path / "foreign").read_text() == ""


@pytest.fixture
def public(made: Path) -> Iterator[Path]:
    """A copy of the output where every user of the machine can come to."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        shutil.copytree(made, Path(name) / made.name)
        (Path(name) / made.name).chmod(0o755)
        yield Path(name) / made.name


def as_nobody(work: Callable[[], bool]) -> bool:
    """What `work` returns in a process of another user; False if it raises."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            become(NOBODY)
            code = 0 if work() else 1
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def can_read(file: Path) -> bool:
    try:
        return bool(file.read_bytes())
    except PermissionError:
        return False


def is_refused(output: Path) -> bool:
    try:
        verdicts.check_writable(output)
    except UsageError as error:
        return "no verdict can be stored" in str(error)
    return False


@pytest.mark.skipif(not ROOT, reason="plays another user, so it has to be root")
def test_another_user_of_the_machine_gets_neither_the_page_nor_the_verdicts(public: Path) -> None:
    with Page(public) as page:
        page.vote(0, verdict="accept")
        assert as_nobody(lambda: [ask(page.port, x).status for x in ("/", "/x/")] == [403, 403])
    assert as_nobody(lambda: can_read(public / verdicts.FILE))  # as the output can be read
    shutil.rmtree(public / "review")
    public.chmod(0o711)  # names inside can be reached, if they are known
    append(public, Verdict(case=0, pixels="p", verdict="accept"))
    assert not as_nobody(lambda: can_read(public / verdicts.FILE))


@pytest.mark.skipif(not ROOT, reason="plays another user, so it has to be root")
def test_where_no_verdict_can_be_stored_the_review_does_not_begin(public: Path) -> None:
    assert as_nobody(lambda: is_refused(public))
    assert not is_refused(public)
