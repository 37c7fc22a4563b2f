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
"""

from enum import IntEnum


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
