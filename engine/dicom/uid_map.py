"""The map from cases back to their DICOM images.  It lives beside the archive, for its owner only.

It holds identifiers, which lead to patients for who has the images; the archive holds none.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from mcdiff_batch.engine.errors import UsageError
from mcdiff_batch.engine.files import from_json, read_named, workplace
from mcdiff_batch.engine.output import durable

from .layout import Box

SUFFIX = ".dicom.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One image of a case."""

    uid: str
    sop_class: str
    series: str
    file: str  # in the folder that was imported; "" in a PACS


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedCase:
    """What an export needs to know of a case, in the order of the archive."""

    case_id: str
    study: str
    sources: tuple[Source, ...]  # superficial depth first
    rows: int  # px of the images
    columns: int
    box: Box  # what the archive has of them


@dataclass(frozen=True, slots=True, kw_only=True)
class UidMap:
    """The document."""

    archive: str  # identity of the archive, as run.json has it
    place: str  # the folder or the DICOMweb server that the images are in
    cases: tuple[MappedCase, ...]
    schema: Literal[1] = 1


def path_beside(archive: Path) -> Path:
    return archive.with_name(archive.name + SUFFIX)


def encode(document: UidMap) -> bytes:
    return (json.dumps(asdict(document), indent=1) + "\n").encode()


def write(path: Path, data: bytes) -> None:
    """Makes the file, for its owner only; it is complete or as before.  Raises OSError."""
    with workplace(path) as partial:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        partial.replace(path)
    durable.sync_folder(path.parent)


def load(path: Path) -> UidMap:
    """Raises UsageError where there is no map, or a damaged one."""
    try:
        return from_json(json.loads(read_named(path)), UidMap)
    except OSError as error:
        raise UsageError(
            f"{path}: the map of UIDs cannot be read ({error.strerror}); `import --dicom` wrote it "
            "beside the archive; name it with --map"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: is no map of UIDs; restore it from a backup") from error
