"""The errors that end the program, and their exit codes.

    McdiffError              1  unexpected
    ├── UsageError           2  the command line is wrong
    ├── ArchiveError         4  the input cannot be used at all
    ├── BundleError          4  the model bundle cannot be used
    ├── OutputLockedError    5  another run is writing to the output
    ├── FingerprintError     6  the output was begun with other settings
    ├── DeviceError          7  no usable device
    ├── VerificationError    8  stored files differ from what was committed
    ├── SpaceError           9  out of space
    └── Drained             75  stopped by a signal; run the same command again

A message says where the error is, what was found, what was expected and what to do.
A `CaseError` does not end the program: it goes to the ledger, and the run continues.
An `OSError` becomes one of the errors above through `explain`, any other error through
`explain_any`.
"""

import errno
import traceback
from enum import IntEnum
from pathlib import Path

DEBUG = "MCDIFF_DEBUG"  # a variable of the environment: if it is set, tracebacks are shown


class Exit(IntEnum):
    """The exit codes of the program."""

    DONE = 0
    UNEXPECTED = 1
    USAGE = 2
    FAILED_CASES = 3
    INPUT_INVALID = 4
    OUTPUT_LOCKED = 5
    FINGERPRINT_DIFFERS = 6
    NO_DEVICE = 7
    VERIFICATION_FAILED = 8
    NO_SPACE = 9
    DRAINED = 75


class McdiffError(Exception):
    """Base class of all errors that are shown to the user."""

    exit_code = Exit.UNEXPECTED


class UsageError(McdiffError):
    exit_code = Exit.USAGE


class ArchiveError(McdiffError):
    exit_code = Exit.INPUT_INVALID


class BundleError(McdiffError):
    exit_code = Exit.INPUT_INVALID


class OutputLockedError(McdiffError):
    exit_code = Exit.OUTPUT_LOCKED


class FingerprintError(McdiffError):
    exit_code = Exit.FINGERPRINT_DIFFERS


class DeviceError(McdiffError):
    exit_code = Exit.NO_DEVICE


class VerificationError(McdiffError):
    exit_code = Exit.VERIFICATION_FAILED


class SpaceError(McdiffError):
    exit_code = Exit.NO_SPACE


class Drained(McdiffError):
    exit_code = Exit.DRAINED


class CaseError(Exception):
    """The data of one case cannot be used.

    reason: a word for programs; detail: a sentence for people.  Both depend on the data alone (P1)
    and contain no time, host, path or attempt.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type["CaseError"], tuple[str, str]]:
        return CaseError, (self.reason, self.detail)


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PLACE = {  # a place that the user named cannot be used
    errno.EACCES: "ask its owner for permission, or choose another place",
    errno.EPERM: "ask its owner for permission, or choose another place",
    errno.EROFS: "choose a place that can be written to",
    errno.ENOENT: "check the name, and whether it was moved or deleted",
    errno.ENOTDIR: "a file or a broken link is in the place of a folder; choose another name",
    errno.EISDIR: "a folder is in the place of a file; choose another name",
    errno.EEXIST: "something else has this name; choose another name",
    errno.ENOTEMPTY: "choose another name, or an empty folder",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "it is a link, or links lead in a circle; name the folder itself",
    errno.EXDEV: "keep all of its folders on one file system",
}
REMEDIES = {
    **dict.fromkeys(FULL, "free some space and run the same command again"),
    errno.EMFILE: "raise the limit of open files (ulimit -n) and run the same command again",
    errno.ENFILE: "close other programs and run the same command again",
    errno.ENOMEM: "free memory and run the same command again",
    errno.ESTALE: "the share was changed on its server; mount it again and run the same command",
    errno.EREMOTEIO: "check the store, the network and the credentials in the environment, and run "
    "the same command again",
    errno.EROFS: "see dmesg why it became read-only, repair that and run the same command again",
    errno.EACCES: "ask the owner for permission and run the same command again",
    errno.EPERM: "ask the owner for permission and run the same command again",
    errno.EXDEV: "keep all of its folders on one file system and run the same command again",
    errno.ENOENT: "put it back and run the same command again",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f) and run the same command again",
    errno.ENOTDIR: "move the file away that is in the place of a folder and run the same command",
    errno.EISDIR: "move the folder away that is in the place of a file and run the same command",
}
NO_THREAD = (  # what Python, the system and libraries in C++ say where no other may start
    *("can't start new thread", "pthread_create", "thread creation failed"),
    "resource temporarily unavailable",
)
RAISE_LIMIT = (
    "cannot start another process or thread; raise their limit (ulimit -u, or that of the "
    "container) and run the same command again"
)
REPAIR = "repair the disk and run the same command again"


def explain(
    error: OSError, where: object = None, *, named: bool = True, also: str = ""
) -> McdiffError:
    """The error for the user that an error of the operating system becomes.

    where: what could not be used (default: the file that the error names).
    named: whether the user has just named that place, which may be the mistake (exit code 2);
    otherwise it was usable until now.  also: one more clause for the message.
    """
    place = error.filename if where is None else where
    reason = error.strerror or type(error).__name__
    kind: type[McdiffError] = SpaceError if error.errno in FULL else McdiffError
    remedy = REMEDIES.get(error.errno or 0, REPAIR)
    if named and error.errno in PLACE:
        kind, remedy = UsageError, PLACE[error.errno]
    text = reason if error.errno in FULL else f"cannot be read or written ({reason})"
    head = text if place is None else f"{_text(place)}: {text}"
    return kind("; ".join(x for x in (head, also, remedy) if x))


def lacks_threads(error: BaseException) -> bool:
    """Whether the limit of processes and threads is the cause."""
    # another EAGAIN: of a file, or of a pipe that is full
    other = getattr(error, "filename", None) or hasattr(error, "characters_written")
    return not other and any(x in str(error).lower() for x in NO_THREAD)


def explain_any(error: BaseException) -> McdiffError:
    """The error for the user that any error becomes.  It shows nothing of the data (P10)."""
    if isinstance(error, McdiffError):
        return error
    if lacks_threads(error):
        return McdiffError(RAISE_LIMIT)
    if isinstance(error, OSError) and error.errno is not None:
        return explain(error)
    if isinstance(error, MemoryError):
        return McdiffError("out of memory; free memory and run the same command again")
    if isinstance(error, ModuleNotFoundError):
        extras = "pip install 'mcdiff-batch[train,evaluate]'"
        return UsageError(f"this command needs {error.name}, which is not installed: {extras}")
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(frame.filename).name}, line {frame.lineno}"
    return McdiffError(
        f"unexpected {type(error).__name__} in {where}; please report it with what the same "
        f"command prints after `export {DEBUG}=1` (that may show parts of your data)"
    )


def _text(place: object) -> str:
    return place.decode(errors="backslashreplace") if isinstance(place, bytes) else str(place)
