"""Fetches images from a DICOMweb server into a folder; what is there is not fetched again."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mcdiff_batch.engine.errors import McdiffError
from mcdiff_batch.engine.output import durable

from .dicomweb import Server, series_path, value
from .headers import CLASSES, MAGIC, is_uid


def download(
    server: Server,
    matches: Mapping[str, str],
    folder: Path,
    tell: Callable[[str], None] = lambda _: None,
) -> int:
    """Makes `folder` hold the ultrasound images of the studies that match, and no other files.

    matches: attributes of a study, as QIDO-RS has them, such as StudyDate: 20260101-20260131.
    Returns their number.  Raises McdiffError, UsageError, SpaceError.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    durable.clear_scratch(folder)
    wanted = {f"{uid}.dcm": (study, series, uid) for study, series, uid in _find(server, matches)}
    for path in folder.iterdir():
        if path.name not in wanted and path.is_file():
            path.unlink()
    missing = {name: where for name, where in wanted.items() if not (folder / name).is_file()}
    tell(f"{len(wanted)} images match, {len(missing)} are still to be fetched")
    for name, where in missing.items():
        data = server.fetch(*where)
        if data[MAGIC : MAGIC + 4] != b"DICM":
            raise McdiffError(f"{server.url}: sent something that is not a DICOM file")
        durable.write(folder, name, data)
    return len(wanted)


def _find(server: Server, matches: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Study, series and instance of every image of a class that can be imported."""
    for study in _uids(server, "/studies", matches, "0020000D"):
        for series in _uids(server, f"/studies/{study}/series", {}, "0020000E"):
            for answer in server.query(f"{series_path(study, series)}/instances", {}):
                if str(value(answer, "00080016")) in CLASSES:
                    yield study, series, _uid(server, answer, "00080018")


def _uids(server: Server, path: str, matches: Mapping[str, str], tag: str) -> list[str]:
    return [_uid(server, answer, tag) for answer in server.query(path, matches)]


def _uid(server: Server, answer: dict[str, Any], tag: str) -> str:
    """A UID from the server, which becomes part of an address and of a file name."""
    uid = str(value(answer, tag) or "")
    if not is_uid(uid):
        raise McdiffError(f"{server.url}: sent a UID ({tag[:4]},{tag[4:]}) that is none")
    return uid
