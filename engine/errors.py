"""What can go wrong, and the exit code each thing ends with.

    McdiffError              1  unexpected
    ├── UsageError           2  the command's words are off
    ├── ArchiveError         4  the input cannot be used at all
    ├── BundleError          4  the model bundle cannot be used
    ├── OutputLockedError    5  another run is writing there
    ├── FingerprintError     6  the output belongs to a run with other settings
    ├── DeviceError          7  no usable device
    ├── VerificationError    8  stored bytes are not what was committed
    ├── SpaceError           9  out of space
    └── Drained             75  stopped on a signal; run again

A message says where, what was found, what was expected and what to do.
`CaseError` is no way to end: it is one case's data being bad, and goes to the ledger.
"""

from enum import IntEnum


class Exit(IntEnum):
    """Every way the program ends."""

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
    """Root of all errors meant for the user."""

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
    """One case's data are bad.  `reason` is one word of the ledger, `detail` is for a person.

    Both are determined by the data alone (P1): no time, host, path or attempt in them.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type["CaseError"], tuple[str, str]]:
        return CaseError, (self.reason, self.detail)
